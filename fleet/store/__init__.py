"""The fleet's memory: SQLite by default, PostgreSQL where one machine is not enough."""

from fleet.store.database import Store, open_store

__all__ = ["Store", "open_store"]
