"""One sealed file with everything that a manager cannot make again: keys, signatures, store, audit.

Blobs are left out unless asked for: a bundle can be published again, which writes them anew.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_contract.errors import ExitCode
from edge_contract.layout import fsync_dir
from fleet.errors import FleetError
from fleet.repository.sealed import seal, unseal

_FILES = ("fleet", "audit.jsonl", "media-sequence.json")
_FOLDERS = ("keys", "tuf", "signing", "identity")
"""Without ``identity`` a restored fleet with certificates would be one that asks for no codes."""
_STORE = "fleet.db"
_SCRATCH = ".backup-"
"""Never the name of a backup that somebody keeps here: what bears it is removed."""
_SMALL_BYTES = 1 << 20
"""Documents (manifests, model.json, directors lists) are always part of a backup."""


def make_backup(state_dir: Path, target: Path, passphrase: str, *, blobs: bool) -> int:
    """Write a sealed backup (0600); returns its size in bytes.

    Safe while a manager runs: the store is copied by SQLite's own backup, and the caller holds the
    repository's lock.

    Raises:
        FleetError: nothing to back up, the target exists, or the passphrase is too short.
    """
    if not (state_dir / "tuf" / "timestamp.json").is_file():
        raise FleetError(f"{state_dir} holds no repository", exit_code=ExitCode.NOT_FOUND)
    if target.exists():
        raise FleetError(f"{target} exists already", hint="choose another name")
    for left in state_dir.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left)  # of one that was killed: keys in the clear
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=state_dir) as scratch:
        archive = Path(scratch) / "backup.tar"
        # What a link leads to is kept: a restore takes plain files and folders only.
        with tarfile.open(archive, "w", dereference=True) as tar:
            for name in (*_FILES, *_FOLDERS):
                if (state_dir / name).exists():
                    tar.add(state_dir / name, arcname=name)
            for path in sorted((state_dir / "blobs" / "sha256").glob("*")):
                if blobs or path.stat().st_size <= _SMALL_BYTES:
                    tar.add(path, arcname=f"blobs/sha256/{path.name}")
            if (state_dir / _STORE).is_file():
                copy = Path(scratch) / _STORE
                _copy_store(state_dir / _STORE, copy)
                tar.add(copy, arcname=_STORE)
        temporary = target.with_name(f".{target.name}.part")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(handle, "wb") as out, archive.open("rb") as source:
                seal(source, out, passphrase)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_dir(target.absolute().parent)
    return target.stat().st_size


def restore_backup(
    source: Path,
    state_dir: Path,
    passphrase: str,
    *,
    settle: Callable[[Path], None] = lambda unpacked: None,
) -> list[str]:
    """Unpack a backup into an empty state directory; returns what it brought.

    All or nothing, a power cut included: the directory appears whole, in one step.

    Args:
        source: the backup.
        state_dir: not there yet, or empty.
        passphrase: the backup's.
        settle: changes what was unpacked before it counts.

    Raises:
        FleetError: the directory holds something already, or the file cannot be opened.
    """
    # Below /var/lib a service's directory may be a link, and what it leads to is replaced.
    place = state_dir.resolve()
    there = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    if there:
        raise FleetError(
            f"{state_dir} holds {there[0]} already; a backup is restored into an empty directory",
            hint=f"move it away first: mv {state_dir} {state_dir}.before",
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    with _restore_scratch(place) as scratch:
        archive, unpacked = scratch / "backup.tar", scratch / "state"
        unpacked.mkdir(mode=0o700)
        try:
            sealed = source.open("rb")
        except OSError as error:
            raise FleetError(
                f"cannot read {source}: {error.strerror}", exit_code=ExitCode.NOT_FOUND
            ) from error
        try:
            with sealed, archive.open("wb") as out:
                for chunk in unseal(sealed, passphrase, where=str(source)):
                    out.write(chunk)
        except OSError as error:
            raise FleetError(
                f"cannot unpack {source} into {place.parent}: {error.strerror}",
                hint="it needs twice the room of the backup there",
            ) from error
        try:
            names = _unpack(archive, unpacked)
        except (tarfile.TarError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise FleetError(
                    f"cannot unpack {source} into {place.parent}: {error.strerror}",
                    hint="it needs twice the room of the backup there",
                ) from error
            raise FleetError(f"{source} holds no backup that can be unpacked: {error}") from error
        settle(unpacked)
        for folder in (unpacked, *(path for path in unpacked.rglob("*") if path.is_dir())):
            fsync_dir(folder)
        try:
            unpacked.rename(place)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            raise FleetError(
                f"{state_dir} is where a disk is mounted, and cannot appear in one step",
                hint=f"restore into a folder of that disk: --state {state_dir / 'fleet'}",
            ) from error
        fsync_dir(place.parent)
    return names


@contextmanager
def _restore_scratch(place: Path) -> Iterator[Path]:
    """A folder beside ``place`` for this restore alone. What one that was killed left there, with
    keys in the clear, goes first."""
    handle = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        prefix = f".{place.name}.restore-"
        for left in place.parent.glob(f"{glob.escape(prefix)}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=place.parent) as made:
            yield Path(made)
    except BlockingIOError as error:
        raise FleetError(
            f"another restore is under way in {place.parent}", hint="wait until it has ended"
        ) from error
    finally:
        os.close(handle)


def _unpack(archive: Path, target: Path) -> list[str]:
    allowed = {*_FILES, *_FOLDERS, _STORE, "blobs"}
    with tarfile.open(archive, "r:") as tar:
        members = tar.getmembers()
        for member in members:
            parts = Path(member.name).parts
            plain = member.isreg() or member.isdir()
            if not parts or ".." in parts or parts[0] not in allowed or not plain:
                raise FleetError(f"backup: member {member.name[:80]!r} is refused")
        for member in members:
            place = target / member.name
            if member.isdir():
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                continue
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            with place.open("wb") as out:
                shutil.copyfileobj(content, out)
                os.fsync(out.fileno())
            place.chmod(0o600)
    return sorted({Path(member.name).parts[0] for member in members})


def _copy_store(source: Path, target: Path) -> None:
    before = sqlite3.connect(source)
    after = sqlite3.connect(target)
    try:
        before.backup(after)
    finally:
        before.close()
        after.close()
