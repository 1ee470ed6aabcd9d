"""Keys that people hold: one file a key, and the public half to hand out.

The private half lies in the file, under a passphrase, or in a token, and the file says which.
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
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from edge_contract.codec import decode_json, encode_json
from edge_contract.errors import ContractError, ExitCode
from edge_contract.layout import fsync_dir, write_durably
from edge_contract.signing import ed25519_key, fingerprint, public_bytes
from fleet.errors import FleetError
from fleet.repository.sealed import seal, unseal
from fleet.repository.token_keys import ECDSA_SCHEMES, TokenSigner
from fleet.repository.token_uri import TokenUri

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
        if true_id(key) != self.keyid:
            raise FleetError(f"public key of {self.owner!r}: its id is not its fingerprint")
        return key


class _KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    """Either ``sealed`` is there, or ``token`` and ``key``."""

    schema: int = 1
    owner: str
    keyid: str
    sealed: str = ""
    token: str = ""
    key: dict[str, Any] = {}


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
    path = new_key_path(directory, owner)
    key = Ed25519PrivateKey.generate()
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    sealed = io.BytesIO()
    seal(io.BytesIO(raw), sealed, passphrase)
    public = public_key_file(owner, ed25519_key(public_bytes(key)))
    text = base64.b64encode(sealed.getvalue()).decode()
    _create(path, _KeyFile(owner=owner, keyid=public.keyid, sealed=text))
    write_public_key(path.with_suffix(".pub"), public)
    return public


def write_token_key_file(directory: Path, owner: str, place: TokenUri, key: Key) -> PublicKeyFile:
    """Write ``OWNER.key``, which says where in a token the key is, and ``OWNER.pub``.

    Raises:
        FleetError: not a name, or the file exists.
    """
    path = new_key_path(directory, owner)
    public = public_key_file(owner, key)
    _create(path, _KeyFile(owner=owner, keyid=key.keyid, token=str(place), key=public.key))
    write_public_key(path.with_suffix(".pub"), public)
    return public


def new_key_path(directory: Path, owner: str) -> Path:
    """Where the key file of ``owner`` goes.

    Raises:
        FleetError: not a name, or the file exists.
    """
    path = directory / f"{_checked_name(owner)}.key"
    if path.exists():
        raise FleetError(f"{path} exists already", hint="choose another name, or use that key")
    return path


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
    if not public.key:
        raise FleetError(
            f"{path}: expected a public key, and this file is the private half",
            hint=f"{path.with_suffix('.pub')}",
            exit_code=ExitCode.USAGE,
        )
    public.tuf_key()
    return public


def read_key_owner(path: Path) -> tuple[str, str]:
    """(owner, key id) of a key file, without opening it.

    Raises:
        FleetError: missing or malformed.
    """
    file = _read(path)
    return file.owner, file.keyid


def read_token(path: Path) -> TokenUri | None:
    """Where the private half is, if it is in a token.

    Raises:
        FleetError: missing or malformed.
    """
    text = _read(path).token
    return TokenUri.parse(text) if text else None


def open_key_file(path: Path, secret: str) -> HeldKey:
    """Open ``NAME.key``.

    Args:
        path: the file.
        secret: its passphrase; the PIN of the token where the key is in one, which is asked for
            the key only when something is signed.

    Raises:
        FleetError: missing, malformed, readable by others, or a wrong passphrase.
    """
    file = _read(path)
    if file.token:
        public = PublicKeyFile(owner=file.owner, keyid=file.keyid, key=file.key)
        signer = TokenSigner(TokenUri.parse(file.token), public.tuf_key(), secret)
        return HeldKey(file.owner, public, signer)
    mode = path.stat().st_mode
    if mode & 0o077:
        raise FleetError(
            f"{path}: mode {mode & 0o777:04o} lets others read a signing key, expected 0600",
            hint=f"chmod 600 {path}",
            exit_code=ExitCode.AUTH,
        )
    try:
        sealed = io.BytesIO(base64.b64decode(file.sealed, validate=True))
        raw = b"".join(unseal(sealed, secret, where=str(path)))
        key = Ed25519PrivateKey.from_private_bytes(raw)
    except ValueError as error:
        raise FleetError(
            f"{path}: damaged: {error}", hint="take your copy of the file, or replace the key"
        ) from error
    public = public_key_file(file.owner, ed25519_key(public_bytes(key)))
    if public.keyid != file.keyid:
        raise FleetError(f"{path}: holds another key than it says", exit_code=ExitCode.AUTH)
    return HeldKey(file.owner, public, CryptoSigner(key, ed25519_key(public_bytes(key))))


def _create(path: Path, file: _KeyFile) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(encode_json(file))
        out.flush()
        os.fsync(out.fileno())
    fsync_dir(path.parent)


def true_id(key: Key) -> str:
    """The id that a key of ours has by its content; "" for a key of a kind that is none of ours."""
    try:
        value = key.to_dict()["keyval"]["public"]
        if (key.keytype, key.scheme) == ("ed25519", "ed25519"):
            return fingerprint(bytes.fromhex(value))
        if key.keytype == "ecdsa" and key.scheme in ECDSA_SCHEMES:
            public = load_pem_public_key(value.encode())
            return SSlibKey.from_crypto(public, scheme=key.scheme).keyid
    except (KeyError, TypeError, ValueError, AttributeError, UnsupportedAlgorithm):
        pass
    return ""


def _read(path: Path) -> _KeyFile:
    try:
        file = decode_json(path.read_bytes(), _KeyFile, what=str(path))
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
    if bool(file.sealed) == bool(file.token):
        raise FleetError(
            f"{path}: expected a sealed key or the place of one in a token",
            hint="expected a NAME.key that `edge-fleet key new` wrote",
        )
    return file


def _checked_name(owner: str) -> str:
    if not _NAME.fullmatch(owner):
        raise FleetError(
            f"key name {owner[:60]!r}: expected 1 to 40 lower-case letters, digits and '-'",
            exit_code=ExitCode.USAGE,
        )
    return owner
