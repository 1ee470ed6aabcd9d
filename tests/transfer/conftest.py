"""The manager's fixtures: a real broker, store, repository and manager."""

from tests.manager.conftest import fleet, make_fleet

__all__ = ["fleet", "make_fleet"]
