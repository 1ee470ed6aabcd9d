"""Opening a store: the engine, its settings, its migrations, and transactions on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import ConnectionPoolEntry

from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.store.schema import meta


class Store:
    """A migrated database. One thread writes, any thread reads.

    Attributes:
        engine: for tests and reports that read tables directly.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends well, rolled back otherwise."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that is never committed: a consistent view."""
        with self.engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()


def open_store(where: Path | str, *, fleet: str) -> Store:
    """Open a store, make it if it is not there, and bring its tables up to date.

    Args:
        where: a file for SQLite, or an SQLAlchemy URL (``postgresql+psycopg://…``).
        fleet: whose store it is; a store of another fleet is refused.

    Raises:
        FleetError: not a database, from a newer release, or of another fleet.
    """
    text = str(where)
    if "://" not in text:
        Path(text).parent.mkdir(parents=True, exist_ok=True)
        text = f"sqlite:///{text}"
    engine = create_engine(text)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        _migrate(engine)
        _claim(engine, fleet)
    except CommandError as error:
        engine.dispose()
        raise FleetError(
            f"store {where}: its tables are of a release that this one does not know: {error}",
            hint="use the newer edge-fleet that last opened it, or restore a backup",
        ) from error
    except DatabaseError as error:
        engine.dispose()
        full = "full" in str(error.orig)
        raise FleetError(
            f"store {where}: cannot be opened as a database: {error.orig}",
            hint="free some space there (df -h)"
            if full
            else "restore it from a backup, or move it away to begin with an empty one",
        ) from error
    return Store(engine)


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", "fleet.store:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _claim(engine: Engine, fleet: str) -> None:
    with engine.begin() as connection:
        owner = connection.scalar(select(meta.c.value).where(meta.c.name == "fleet"))
        if owner is None:
            connection.execute(insert(meta).values(name="fleet", value=fleet))
        elif owner != fleet:
            raise FleetError(
                f"the store belongs to the fleet {owner!r}, expected {fleet!r}",
                hint=f"start with --fleet {owner}, or with another --state directory",
                exit_code=ExitCode.USAGE,
            )


def _set_up_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # SQLAlchemy's own BEGIN below, not the driver's guess
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        # An acknowledged record must survive a power cut; NORMAL may lose the last commits.
        "synchronous=FULL",
        "busy_timeout=10000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
