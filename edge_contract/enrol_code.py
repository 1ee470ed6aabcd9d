"""One-time enrolment codes: what a person carries from the fleet to a device.

``{fleet}.{id}.{secret}.{ca}{check}`` in lower-case base32: 128 bits of secret, the first 128 bits
of the SHA-256 of the CA certificate, and a check against slips of the pen. So the first contact is
authenticated both ways: the device knows the CA, and signs with a key that is derived from the
secret. The fleet keeps that key's public half alone: neither its store nor whoever reads the wire
can use a code.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge_contract.errors import ContractError
from edge_contract.topics import check_id

ID_BYTES = 5
SECRET_BYTES = 16
CA_BYTES = 16
_CHECK_CHARS = 4
_FORM = re.compile(r"([a-z0-9-]{1,63})\.([a-z2-7]{8})\.([a-z2-7]{26})\.([a-z2-7]{26})([a-z2-7]{4})")


class EnrolCode(msgspec.Struct, frozen=True):
    """A code, taken apart.

    Attributes:
        fleet: which fleet issued it.
        id: names it in the fleet's store; no secret.
        secret: ``SECRET_BYTES`` random bytes.
        ca: the first ``CA_BYTES`` of the SHA-256 of the CA certificate (DER).
    """

    fleet: str
    id: str
    secret: bytes
    ca: bytes

    def __str__(self) -> str:
        head = f"{self.fleet}.{self.id}.{_text(self.secret)}.{_text(self.ca)}"
        return head + _check(head)

    def key(self) -> Ed25519PrivateKey:
        """The key that an ask with this code is signed by."""
        info = f"wherry enrolment code 1 {self.fleet} {self.id}".encode()
        seed = HKDF(SHA256(), length=32, salt=None, info=info).derive(self.secret)
        return Ed25519PrivateKey.from_private_bytes(seed)


def ca_fingerprint(der: bytes) -> bytes:
    """What a code says of the CA certificate."""
    return hashlib.sha256(der).digest()[:CA_BYTES]


def make_code(fleet: str, random: bytes, ca: bytes) -> EnrolCode:
    """A code out of ``ID_BYTES + SECRET_BYTES`` random bytes."""
    check_id(fleet, what="fleet")
    if len(random) != ID_BYTES + SECRET_BYTES or len(ca) != CA_BYTES:
        raise ValueError(f"expected {ID_BYTES + SECRET_BYTES} random bytes and {CA_BYTES} of CA")
    return EnrolCode(fleet, _text(random[:ID_BYTES]), random[ID_BYTES:], ca)


def parse_code(text: str) -> EnrolCode:
    """Read a code as a person typed it: case and blanks around it do not matter.

    Raises:
        ContractError: not a code, or a slip in it.
    """
    text = text.strip().lower()
    match = _FORM.fullmatch(text)
    if match is None:
        raise ContractError(
            "enrolment code: expected fleet.id.secret.ca as `edge-fleet enroll-code` prints it,"
            f" {len(text)} characters came"
        )
    fleet, name, secret, ca, check = match.groups()
    if _check(text[:-_CHECK_CHARS]) != check:
        raise ContractError("enrolment code: a character is wrong; copy it again")
    check_id(fleet, what="fleet")
    try:
        return EnrolCode(fleet, name, _bytes(secret), _bytes(ca))
    except binascii.Error as error:
        raise ContractError(f"enrolment code: {error}") from error


def _text(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _bytes(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))


def _check(head: str) -> str:
    return _text(hashlib.sha256(head.encode()).digest())[:_CHECK_CHARS]
