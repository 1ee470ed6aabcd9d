"""Signatures on small documents (DSSE) and on single MQTT messages. Ed25519 throughout.

Documents that outlive a connection (``desired``) are DSSE envelopes, through securesystemslib.
A live message keeps its payload flat for other people's tools; its signature over topic and
payload travels as the MQTT 5 user property ``wherry-sig``, so that a message cannot be moved to
another topic.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SignatureLibraryError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.errors import ContractError, TrustError

SIGNATURE_PROPERTY = "wherry-sig"
_SIGNERS_SHOWN = 3
"""Anybody can list thousands."""
_MESSAGE_TYPE = "application/vnd.wherry.message;topic="


def public_bytes(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """The 32 raw bytes of the public key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def raw_public_key(text: str, *, where: str) -> bytes:
    """The 32 bytes of a public key in hexadecimal.

    Raises:
        ContractError: not hexadecimal, or not 32 bytes.
    """
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 32 or len(text) != 64:
        raise ContractError(f"{where}: expected a key of 32 bytes in hex, got {text[:80]!r}")
    return raw


def fingerprint(public: bytes) -> str:
    """The key id used everywhere: SHA-256 of the 32 raw public bytes, hexadecimal."""
    return hashlib.sha256(public).hexdigest()


def ed25519_key(public: bytes) -> SSlibKey:
    """The key in the form that TUF metadata and DSSE use."""
    return SSlibKey(fingerprint(public), "ed25519", "ed25519", {"public": public.hex()})


def sign_document(key: Ed25519PrivateKey, payload_type: str, payload: bytes) -> bytes:
    """A DSSE envelope (JSON) around ``payload``."""
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(CryptoSigner(key, ed25519_key(public_bytes(key))))
    return json.dumps(envelope.to_dict(), sort_keys=True, separators=(",", ":")).encode()


def verify_document(
    data: bytes, payload_type: str, keys: Iterable[bytes], *, what: str
) -> tuple[bytes, str]:
    """The payload of a DSSE envelope that one of ``keys`` signed, and that key's fingerprint.

    Args:
        data: the envelope as it came.
        payload_type: the only accepted type.
        keys: raw 32-byte public keys, any of which suffices.
        what: what the document is, for the error message.

    Raises:
        ContractError: not an envelope, or of another type.
        TrustError: none of the keys signed it.
    """
    if len(data) > MESSAGE_LIMIT_BYTES:
        raise ContractError(f"{what}: {len(data)} bytes, at most {MESSAGE_LIMIT_BYTES} accepted")
    try:
        envelope = Envelope.from_dict(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ContractError(f"{what}: not a DSSE envelope: {error}") from error
    except SignatureLibraryError as error:
        raise ContractError(f"{what}: not a DSSE envelope: {error}") from error
    if not all(isinstance(signer, str) for signer in envelope.signatures):
        raise ContractError(f"{what}: not a DSSE envelope: expected key ids in text")
    if envelope.payload_type != payload_type:
        raise ContractError(
            f"{what}: expected payload type {payload_type}, got {envelope.payload_type!r:.100}"
        )
    trusted: list[Key] = [ed25519_key(public) for public in keys]
    try:
        accepted = envelope.verify(trusted, 1) if trusted else {}
    except (SignatureLibraryError, ValueError) as error:
        signers = f"{sorted(envelope.signatures)[:_SIGNERS_SHOWN]!r:.200}"
        raise TrustError(
            f"{what}: no signature by a trusted key; it was signed by {signers},"
            f" trusted are {[k.keyid for k in trusted]}",
        ) from error
    if not accepted:
        raise TrustError(f"{what}: no trusted key is known to check it against")
    return envelope.payload, min(accepted)


def signers_of(envelope: bytes) -> frozenset[str]:
    """The key ids that a DSSE envelope of our own claims; nothing is verified.

    Raises:
        ContractError: not an envelope.
    """
    try:
        return frozenset(str(item["keyid"]) for item in json.loads(envelope)["signatures"])
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"not a DSSE envelope: {error}") from error


def sign_message(key: Ed25519PrivateKey, topic: str, payload: bytes) -> str:
    """The value of the ``wherry-sig`` property for one MQTT message."""
    return base64.b64encode(key.sign(_message_bytes(topic, payload))).decode()


def verify_message(public: bytes, topic: str, payload: bytes, signature: str) -> None:
    """Check one MQTT message against the sender's key.

    Raises:
        TrustError: missing, malformed or wrong signature.
    """
    if not signature:
        raise TrustError(f"{topic}: message without the user property {SIGNATURE_PROPERTY!r}")
    try:
        raw = base64.b64decode(signature, validate=True)
        Ed25519PublicKey.from_public_bytes(public).verify(raw, _message_bytes(topic, payload))
    except (binascii.Error, ValueError, InvalidSignature) as error:
        raise TrustError(
            f"{topic}: the signature is not by key {fingerprint(public)[:16]}…"
        ) from error


def _message_bytes(topic: str, payload: bytes) -> bytes:
    return bytes(Envelope(payload, _MESSAGE_TYPE + topic, {}).pae())
