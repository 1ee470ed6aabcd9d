"""The life of the spool's SQLite file: made whole, opened checked, set aside when damaged.

Write-ahead log with ``synchronous=FULL``: a commit that returned survives a power cut. The main
file never exceeds the cap; the log, bounded by the check-point interval plus the largest
transaction of ours, is what "cap + 1 MB" leaves room for.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from edge_agent.telemetry.errors import Fault, SpoolError, StorageError, storage_errors
from edge_agent.telemetry.quota import CLASSES

PAGE_BYTES = 4096

CAP_MIN_BYTES = 512 * 1024
"""Below this one flush of memory would not fit beside the headroom."""

_APPLICATION_ID = 0x77687279  # "whry"
_SCHEMA_VERSION = 1

_CHECKPOINT_PAGES = 96
"""The log may grow to these plus one transaction (at most about 80 pages) before it starts anew:
0.73 MB. More would spare writes of pages that change again, fewer would spare disk."""

_WAL_KEPT_BYTES = 768 * 1024
"""Never given back below this: a log that has its blocks can commit on a full disk."""

_BATCH_TABLE = """
CREATE TABLE batch_{cls} (
    key INTEGER PRIMARY KEY,
    seq_last INTEGER NOT NULL,
    records INTEGER NOT NULL,
    body BLOB NOT NULL
);
INSERT INTO class_state VALUES ('{cls}', 0, 1, 0, 0, 0, 0, 0);
"""

_SCHEMA = """
CREATE TABLE boot (boot INTEGER PRIMARY KEY, given TEXT NOT NULL, boot_id TEXT NOT NULL);
CREATE TABLE class_state (
    cls TEXT PRIMARY KEY,
    boot INTEGER NOT NULL,
    next_seq INTEGER NOT NULL,
    frozen_key INTEGER NOT NULL,
    records INTEGER NOT NULL,
    body_bytes INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    merged INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE tombstone (
    id INTEGER PRIMARY KEY,
    cls TEXT NOT NULL,
    boot INTEGER NOT NULL,
    seq_first INTEGER NOT NULL,
    seq_last INTEGER NOT NULL,
    reason TEXT NOT NULL
);
"""


def create_database(path: Path) -> None:
    """Make a fresh, empty spool at ``path``, whole or not at all.

    It is built beside and renamed, so an existing file always had its tables once.

    Raises:
        StorageError: the disk refused.
    """
    fresh = _beside(path, ".new")
    for leftover in (fresh, _beside(fresh, "-wal"), _beside(fresh, "-journal")):
        leftover.unlink(missing_ok=True)
    try:
        with storage_errors(f"making the spool {path}"):
            connection = sqlite3.connect(fresh, isolation_level=None)
            try:
                connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
                connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
                tables = "".join(_BATCH_TABLE.replace("{cls}", cls) for cls in CLASSES)
                connection.executescript(f"BEGIN;{_SCHEMA}{tables}COMMIT;")
                connection.execute("PRAGMA journal_mode=WAL")
            finally:
                connection.close()
        _replace(fresh, path)
    except OSError as error:
        raise StorageError(Fault.IO, f"making the spool {path}: {error}") from error


def open_database(path: Path, cap_bytes: int) -> sqlite3.Connection:
    """Open and check an existing spool; the connection owns the file alone.

    Raises:
        StorageError: CORRUPT if it is not a whole spool of this version, BUSY if another process
            has it, FULL or IO if the disk refused.
    """
    with storage_errors(f"opening the spool {path}"):
        connection = sqlite3.connect(path, isolation_level=None, timeout=1.0)
        try:
            # Exclusive: a second agent is refused, no reader can hold the log back, no shared
            # memory file. Before the first access, or it has no effect on the log's index.
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            found = [
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version")
            ]
            if found != [_APPLICATION_ID, _SCHEMA_VERSION]:
                raise StorageError(
                    Fault.CORRUPT,
                    f"{path}: expected a spool of version {_SCHEMA_VERSION}, got"
                    f" {_size(path)} bytes with application id and version {found}",
                )
            check = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if check != "ok":
                raise StorageError(Fault.CORRUPT, f"{path}: {check}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA secure_delete=OFF")  # Debian's default rewrites with zeros
            connection.execute("PRAGMA cache_spill=OFF")  # the disk is touched at commit only
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit={_WAL_KEPT_BYTES}")
            connection.execute(f"PRAGMA max_page_count={cap_bytes // PAGE_BYTES}")
        except BaseException:
            connection.close()
            raise
    return connection


def open_or_replace(path: Path, cap_bytes: int) -> tuple[sqlite3.Connection, str]:
    """Open the spool at ``path``; make one where none is; set a damaged one aside first.

    Returns:
        The connection, and why an older file was given up ("" if none was). In that case sequence
        numbers of the present boot may have been used before: the caller needs a new boot id.

    Raises:
        StorageError: BUSY, FULL or IO; nothing was changed.
    """
    lost = ""
    if _size(path) is not None:
        try:
            return open_database(path, cap_bytes), ""
        except StorageError as error:
            if error.fault is not Fault.CORRUPT:
                raise
            lost = error.message
            quarantine(path)
    elif quarantined_bytes(path) or _size(_beside(path, "-wal")):
        lost = f"{path}: set aside earlier and not replaced before the process ended"
        quarantine(path)
    create_database(path)
    return open_database(path, cap_bytes), lost


def quarantine_path(path: Path) -> Path:
    """Where ``quarantine`` puts the spool."""
    return _beside(path, ".quarantined")


def quarantine(path: Path) -> None:
    """Set the spool at ``path`` and its log aside, over what was set aside before.

    The main file goes first: a log left alone by a power cut in between tells the next start.

    Raises:
        StorageError: the disk refused.
    """
    aside = quarantine_path(path)
    try:
        for suffix in ("", "-wal"):
            source = _beside(path, suffix)
            if source.exists():
                _replace(source, _beside(aside, suffix))
        _beside(path, "-shm").unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(Fault.IO, f"setting the damaged spool {path} aside: {error}") from error


def remove_quarantined(path: Path) -> None:
    """Give up the evidence: its space is needed.

    Raises:
        StorageError: the disk refused.
    """
    try:
        for suffix in ("", "-wal"):
            _beside(quarantine_path(path), suffix).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(Fault.IO, f"removing what {path} was set aside as: {error}") from error


def compact(connection: sqlite3.Connection, path: Path) -> None:
    """Rewrite the file without its free pages and close ``connection``; needs room for both.

    Only for a cap that was lowered: otherwise free pages are reused in place.

    Raises:
        StorageError: the disk refused; the old file is still whole.
    """
    fresh = _beside(path, ".new")
    try:
        fresh.unlink(missing_ok=True)
        with storage_errors(f"compacting the spool {path}"):
            connection.execute("VACUUM INTO ?", (str(fresh),))
            connection.close()  # the last to close: the log is written back and removed
        _replace(fresh, path)
    except OSError as error:
        raise StorageError(Fault.IO, f"compacting the spool {path}: {error}") from error


def disk_bytes(path: Path) -> int:
    """Bytes of everything that belongs to the spool at ``path``, what was set aside included."""
    own = (_size(_beside(path, suffix)) or 0 for suffix in ("", "-wal", "-shm"))
    return sum(own) + quarantined_bytes(path)


def quarantined_bytes(path: Path) -> int:
    """Bytes of what was set aside."""
    return sum(_size(_beside(quarantine_path(path), suffix)) or 0 for suffix in ("", "-wal"))


def check_cap(cap_bytes: int) -> int:
    """``cap_bytes`` if a spool can work in it.

    Raises:
        SpoolError: no integer, or too small.
    """
    if type(cap_bytes) is not int or cap_bytes < CAP_MIN_BYTES:
        raise SpoolError(f"spool cap: expected at least {CAP_MIN_BYTES} bytes, got {cap_bytes!r}")
    return cap_bytes


def _size(path: Path) -> int | None:
    """Bytes of a file; None where none is, or none can be seen (making one then says why)."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _replace(source: Path, target: Path) -> None:
    """Rename durably: the file's bytes first, then the directory entry."""
    _sync(source)
    source.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
