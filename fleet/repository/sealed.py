"""Bytes under a passphrase: scrypt (RFC 7914) for the key, ChaCha20-Poly1305 (RFC 8439) in chunks.

Each chunk is bound to its number and to whether it is the last, so none can be dropped, moved or
cut off unnoticed. Used for key files and for backups, which may be larger than memory.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from edge_contract.errors import ExitCode
from fleet.errors import FleetError

MAGIC = b"wherry-sealed-1\n"
PASSPHRASE_MIN_CHARS = 8
_CHUNK_BYTES = 1 << 20
_SALT_BYTES = 16
_SCRYPT_N = 1 << 16
"""64 MB and about 0.2 s a guess (r = 8, p = 1)."""


def seal(source: BinaryIO, target: BinaryIO, passphrase: str) -> None:
    """Write everything of ``source`` to ``target``, encrypted.

    Raises:
        FleetError: the passphrase is too short.
    """
    if len(passphrase) < PASSPHRASE_MIN_CHARS:
        raise FleetError(
            f"the passphrase has {len(passphrase)} characters, expected"
            f" {PASSPHRASE_MIN_CHARS} or more",
            hint="take several words",
            exit_code=ExitCode.USAGE,
        )
    salt = secrets.token_bytes(_SALT_BYTES)
    cipher = _cipher(passphrase, salt)
    target.write(MAGIC + salt)
    number, chunk = 0, source.read(_CHUNK_BYTES)
    while True:
        following = source.read(_CHUNK_BYTES)
        sealed = cipher.encrypt(_nonce(number), chunk, _bound(number, last=not following))
        target.write(struct.pack(">IB", len(sealed), not following) + sealed)
        if not following:
            return
        number, chunk = number + 1, following


def unseal(source: BinaryIO, passphrase: str, *, where: str) -> Iterator[bytes]:
    """The chunks that were sealed, each one verified before it is given out.

    Raises:
        FleetError: another format, a wrong passphrase, or changed or cut off since.
    """
    if source.read(len(MAGIC)) != MAGIC:
        raise FleetError(f"{where}: not a sealed file of edge-fleet")
    cipher = _cipher(passphrase, source.read(_SALT_BYTES))
    number, last = 0, False
    while not last:
        head = source.read(5)
        if len(head) != 5:
            raise FleetError(f"{where}: cut off after {number} chunks")
        size, flag = struct.unpack(">IB", head)
        last = bool(flag)
        if size > _CHUNK_BYTES + 16:
            raise FleetError(f"{where}: a chunk of {size} bytes is none of ours")
        try:
            yield cipher.decrypt(_nonce(number), source.read(size), _bound(number, last=last))
        except InvalidTag as error:
            raise FleetError(
                f"{where}: wrong passphrase, or the file was changed (chunk {number})",
                exit_code=ExitCode.AUTH,
            ) from error
        number += 1


def _cipher(passphrase: str, salt: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(Scrypt(salt, 32, _SCRYPT_N, 8, 1).derive(passphrase.encode()))


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _bound(number: int, *, last: bool) -> bytes:
    return MAGIC + struct.pack(">QB", number, last)
