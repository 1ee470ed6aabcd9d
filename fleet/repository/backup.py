"""One sealed file with everything that a manager cannot make again: keys, signatures, store, audit.

Blobs are left out unless asked for: a bundle can be published again, which writes them anew.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tarfile
import tempfile
from pathlib import Path

from edge_contract.errors import ExitCode
from edge_contract.layout import fsync_dir
from fleet.errors import FleetError
from fleet.repository.sealed import seal, unseal

_FILES = ("fleet", "audit.jsonl", "media-sequence.json")
_FOLDERS = ("keys", "tuf", "signing")
_STORE = "fleet.db"
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
    with tempfile.TemporaryDirectory(prefix="backup-", dir=state_dir) as scratch:
        archive = Path(scratch) / "backup.tar"
        with tarfile.open(archive, "w") as tar:
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


def restore_backup(source: Path, state_dir: Path, passphrase: str) -> list[str]:
    """Unpack a backup into an empty state directory; returns what it brought.

    All or nothing: a wrong passphrase or a damaged file leaves the directory as it was.

    Raises:
        FleetError: the directory holds a fleet already, or the file cannot be opened.
    """
    for name in (*_FILES, *_FOLDERS, _STORE):
        if (state_dir / name).exists():
            raise FleetError(
                f"{state_dir} holds {name} already; a backup is restored into an empty directory",
                hint=f"move it away first: mv {state_dir} {state_dir}.before",
            )
    state_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=state_dir.parent) as scratch:
        archive, unpacked = Path(scratch) / "backup.tar", Path(scratch) / "state"
        unpacked.mkdir(mode=0o700)
        try:
            with source.open("rb") as sealed, archive.open("wb") as out:
                for chunk in unseal(sealed, passphrase, where=str(source)):
                    out.write(chunk)
        except OSError as error:
            raise FleetError(
                f"cannot read {source}: {error.strerror}", exit_code=ExitCode.NOT_FOUND
            ) from error
        names = _unpack(archive, unpacked)
        state_dir.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(unpacked.iterdir()):
            shutil.move(path, state_dir / path.name)
        fsync_dir(state_dir)
    return names


def _unpack(archive: Path, target: Path) -> list[str]:
    allowed = {*_FILES, *_FOLDERS, _STORE, "blobs"}
    with tarfile.open(archive, "r:") as tar:
        members = tar.getmembers()
        for member in members:
            parts = Path(member.name).parts
            if ".." in parts or parts[0] not in allowed or not (member.isreg() or member.isdir()):
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
