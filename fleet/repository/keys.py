"""The manager's own keys: online keys, and development keys for everything on first use.

Development keys let one person try everything within a minute: unencrypted, on this machine, with
a threshold of one. Whoever can read the folder can approve any model, so every file says in its
name what it is, and so does the marker beside them. After the ceremony (docs/how-to/ceremony.md)
the folder holds only what has to be online: snapshot, timestamp, director and audit.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edge_contract.errors import ExitCode
from edge_contract.layout import fsync_dir
from edge_contract.signing import fingerprint, public_bytes
from fleet.errors import FleetError

DEVELOPMENT_WARNING = (
    "these are DEVELOPMENT keys: made automatically, unencrypted, threshold one. Whoever can read"
    " {directory} can approve any model for every device of this fleet."
)
_MARKER = "DEVELOPMENT-KEYS.txt"


class ManagerKeys:
    """A folder (0700) of unencrypted Ed25519 keys (PKCS#8 PEM, 0600).

    ``development-{role}.pem`` is made on first use; ``online-{role}-{id}.pem`` replaces it when a
    key of the manager's is rotated. Which of them count is said by the signed metadata alone.

    Args:
        directory: the folder; made with its first key.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def warning(self) -> str:
        """What to tell people wherever development keys are used."""
        return DEVELOPMENT_WARNING.format(directory=self.directory)

    def path(self, name: str) -> Path:
        """Where the development key of a role lies."""
        return self.directory / f"development-{name}.pem"

    def load(self, name: str) -> Ed25519PrivateKey:
        """The development key of a role that has one.

        Raises:
            FleetError: missing, readable by others, or not an Ed25519 key.
        """
        return _read_key(self.path(name))

    def load_or_make(self, name: str) -> Ed25519PrivateKey:
        """The development key of a role, made now if it has none.

        Safe against another process that makes the same key: one of the two wins, both return it.
        """
        path = self.path(name)
        if not path.exists():
            self._prepare()
            _create_once(self.directory / _MARKER, f"{self.warning}\n".encode(), mode=0o600)
            _create_once(path, _pem(Ed25519PrivateKey.generate()), mode=0o600)
        return self.load(name)

    def make_online(self, role: str) -> Ed25519PrivateKey:
        """A new key of the manager's for a role. It counts once signed metadata names it."""
        key = Ed25519PrivateKey.generate()
        self._prepare()
        name = f"online-{role}-{fingerprint(public_bytes(key))[:12]}.pem"
        _create_once(self.directory / name, _pem(key), mode=0o600)
        return key

    def held(self, role: str, keyids: Collection[str]) -> list[Ed25519PrivateKey]:
        """The keys of a role in this folder that are among ``keyids``.

        Raises:
            FleetError: one is readable by others, or not an Ed25519 key.
        """
        paths = [self.path(role), *sorted(self.directory.glob(f"online-{role}-*.pem"))]
        keys = [_read_key(path) for path in paths if path.exists()]
        return [key for key in keys if fingerprint(public_bytes(key)) in keyids]

    def forget_all_but(self, keyids: Collection[str]) -> list[str]:
        """Remove the private keys that are not among ``keyids``; returns their files' names."""
        gone = []
        for path in sorted(self.directory.glob("*.pem")):
            if fingerprint(public_bytes(_read_key(path))) not in keyids:
                path.unlink()
                gone.append(path.name)
        if not any(self.directory.glob("development-*.pem")):
            (self.directory / _MARKER).unlink(missing_ok=True)
        fsync_dir(self.directory)
        return gone

    def _prepare(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise FleetError(
            f"no key {path}, although the repository was signed with it",
            hint="restore the folder from a backup (docs/how-to/restored-backup.md), or rotate the"
            " key (docs/how-to/lost-key.md)",
            exit_code=ExitCode.NOT_FOUND,
            docs="how-to/lost-key.md",
        ) from error
    except OSError as error:
        raise FleetError(f"cannot read key {path}: {error.strerror}") from error
    if mode & 0o077:
        raise FleetError(
            f"{path}: mode {mode & 0o777:04o} lets others read a signing key, expected 0600",
            hint=f"chmod 600 {path}",
            exit_code=ExitCode.AUTH,
        )
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FleetError(f"{path}: not an unencrypted PEM key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise FleetError(f"{path}: expected an Ed25519 key, got {type(key).__name__}")
    return key


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _create_once(path: Path, data: bytes, *, mode: int) -> None:
    """Make ``path`` with ``data``, durably and at once; keep the one that is there already."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
        fsync_dir(path.parent)
