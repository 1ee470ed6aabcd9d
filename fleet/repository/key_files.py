"""Keys that people hold: one passphrase-protected file a key, and the public half to hand out.

Nothing of it is needed on the manager, which only ever sees ``NAME.pub`` and signatures.
"""

from __future__ import annotations

import base64
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from securesystemslib.signer import CryptoSigner, Key, Signer

from edge_contract.codec import decode_json, encode_json
from edge_contract.errors import ContractError, ExitCode
from edge_contract.layout import fsync_dir, write_durably
from edge_contract.signing import ed25519_key, fingerprint, public_bytes
from fleet.errors import FleetError
from fleet.repository.sealed import seal, unseal

OWNER_FIELD = "x-wherry-owner"
"""Field of a key in signed metadata: who holds it. Keys of the manager's own have none."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


class PublicKeyFile(msgspec.Struct, frozen=True, kw_only=True):
    """``NAME.pub``: what goes into signed metadata. ``key`` is the key as TUF writes it."""

    schema: int = 1
    owner: str
    keyid: str
    key: dict[str, Any]

    def tuf_key(self) -> Key:
        """The key with its owner's name.

        Raises:
            FleetError: not a key, or its id is not that of its content.
        """
        try:
            key = Key.from_dict(self.keyid, {**self.key, OWNER_FIELD: self.owner})
        except (ValueError, KeyError, TypeError) as error:
            raise FleetError(f"public key of {self.owner!r}: {error}") from error
        if key.keytype == "ed25519":
            public = str(key.to_dict()["keyval"]["public"])
            if fingerprint(bytes.fromhex(public)) != self.keyid:
                raise FleetError(f"public key of {self.owner!r}: its id is not its fingerprint")
        return key


class _KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    owner: str
    keyid: str
    sealed: str


@dataclass(frozen=True)
class HeldKey:
    """A private key that was opened: who holds it, and what signs with it."""

    owner: str
    public: PublicKeyFile
    signer: Signer


def new_key_file(directory: Path, owner: str, passphrase: str) -> PublicKeyFile:
    """Make ``OWNER.key`` (0600) and ``OWNER.pub`` in ``directory``.

    Raises:
        FleetError: not a name, the files exist, or the passphrase is too short.
    """
    path = directory / f"{_checked_name(owner)}.key"
    if path.exists():
        raise FleetError(f"{path} exists already", hint="choose another name, or use that key")
    key = Ed25519PrivateKey.generate()
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    sealed = io.BytesIO()
    seal(io.BytesIO(raw), sealed, passphrase)
    public = public_key_file(owner, ed25519_key(public_bytes(key)))
    file = _KeyFile(
        owner=owner, keyid=public.keyid, sealed=base64.b64encode(sealed.getvalue()).decode()
    )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(encode_json(file))
        out.flush()
        os.fsync(out.fileno())
    fsync_dir(directory)
    write_public_key(directory / f"{owner}.pub", public)
    return public


def public_key_file(owner: str, key: Key) -> PublicKeyFile:
    """The public half of a key."""
    return PublicKeyFile(owner=owner, keyid=key.keyid, key=key.to_dict())


def write_public_key(path: Path, public: PublicKeyFile) -> None:
    """Write ``NAME.pub``."""
    write_durably(path, encode_json(public) + b"\n")


def read_public_key(path: Path) -> PublicKeyFile:
    """Read ``NAME.pub``.

    Raises:
        FleetError: missing, malformed, or not a key.
    """
    try:
        public = decode_json(path.read_bytes(), PublicKeyFile, what=str(path))
    except OSError as error:
        raise FleetError(
            f"cannot read {path}: {error.strerror}", exit_code=ExitCode.NOT_FOUND
        ) from error
    except ContractError as error:
        raise FleetError(
            f"{error.message}", hint="expected a NAME.pub that `edge-fleet key new` wrote"
        ) from error
    _checked_name(public.owner)
    public.tuf_key()
    return public


def read_key_owner(path: Path) -> tuple[str, str]:
    """(owner, key id) of a key file, without opening it.

    Raises:
        FleetError: missing or malformed.
    """
    file = _read(path)
    return file.owner, file.keyid


def open_key_file(path: Path, passphrase: str) -> HeldKey:
    """Open ``NAME.key``.

    Raises:
        FleetError: missing, malformed, readable by others, or a wrong passphrase.
    """
    file = _read(path)
    mode = path.stat().st_mode
    if mode & 0o077:
        raise FleetError(
            f"{path}: mode {mode & 0o777:04o} lets others read a signing key, expected 0600",
            hint=f"chmod 600 {path}",
            exit_code=ExitCode.AUTH,
        )
    sealed = io.BytesIO(base64.b64decode(file.sealed))
    raw = b"".join(unseal(sealed, passphrase, where=str(path)))
    key = Ed25519PrivateKey.from_private_bytes(raw)
    public = public_key_file(file.owner, ed25519_key(public_bytes(key)))
    if public.keyid != file.keyid:
        raise FleetError(f"{path}: holds another key than it says", exit_code=ExitCode.AUTH)
    return HeldKey(file.owner, public, CryptoSigner(key, ed25519_key(public_bytes(key))))


def _read(path: Path) -> _KeyFile:
    try:
        return decode_json(path.read_bytes(), _KeyFile, what=str(path))
    except OSError as error:
        raise FleetError(
            f"cannot read {path}: {error.strerror}",
            hint="edge-fleet key new NAME",
            exit_code=ExitCode.NOT_FOUND,
        ) from error
    except ContractError as error:
        raise FleetError(
            error.message, hint="expected a NAME.key that `edge-fleet key new` wrote"
        ) from error


def _checked_name(owner: str) -> str:
    if not _NAME.fullmatch(owner):
        raise FleetError(
            f"key name {owner[:60]!r}: expected 1 to 40 lower-case letters, digits and '-'",
            exit_code=ExitCode.USAGE,
        )
    return owner
