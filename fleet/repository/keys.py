"""Development keys: made on first use, unencrypted, on this machine, with a threshold of one.

They let one person try everything within a minute. Whoever can read the folder can approve any
model, so every file says in its name what it is, and so does the marker beside them.
"""

from __future__ import annotations

import os
import secrets
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
from fleet.errors import FleetError

DEVELOPMENT_WARNING = (
    "these are DEVELOPMENT keys: made automatically, unencrypted, threshold one. Whoever can read"
    " {directory} can approve any model for every device of this fleet."
)
_MARKER = "DEVELOPMENT-KEYS.txt"


class DevelopmentKeys:
    """A folder (0700) with one unencrypted Ed25519 key a role (PKCS#8 PEM, 0600).

    Args:
        directory: the folder; made with its first key.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def warning(self) -> str:
        """What to tell people wherever these keys are used."""
        return DEVELOPMENT_WARNING.format(directory=self.directory)

    def path(self, name: str) -> Path:
        """Where the key of a role lies."""
        return self.directory / f"development-{name}.pem"

    def load(self, name: str) -> Ed25519PrivateKey:
        """The key of a role that has one.

        Raises:
            FleetError: missing, readable by others, or not an Ed25519 key.
        """
        path = self.path(name)
        try:
            mode = path.stat().st_mode
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise FleetError(
                f"no key {path}, although the repository was signed with it",
                hint="restore the folder from a backup; without it nothing can be published for"
                " devices that trust this repository",
                exit_code=ExitCode.NOT_FOUND,
                docs="explanation/trust.md",
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

    def load_or_make(self, name: str) -> Ed25519PrivateKey:
        """The key of a role, made now if it has none.

        Safe against another process that makes the same key: one of the two wins, both return it.
        """
        path = self.path(name)
        if not path.exists():
            self._prepare()
            pem = Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
            _create_once(path, pem, mode=0o600)
        return self.load(name)

    def _prepare(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        _create_once(self.directory / _MARKER, f"{self.warning}\n".encode(), mode=0o600)


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
