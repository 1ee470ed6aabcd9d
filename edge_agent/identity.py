"""The device's own key: made here on first start, never leaves, pinned at enrolment."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edge_agent.errors import AgentError
from edge_contract.layout import write_durably
from edge_contract.signing import fingerprint, public_bytes, sign_message


class Identity:
    """Signs what this device says.

    Args:
        path: the PEM file; created with mode 0600 where it is missing.

    Raises:
        AgentError: the file is there but is not an Ed25519 key. It is never replaced silently:
            a new key would need a new enrolment.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            _create(path)
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise AgentError(
                f"{path}: not a readable private key: {error}",
                hint=f"restore it from a backup; or remove it and enrol the device anew: rm {path}",
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise AgentError(f"{path}: expected an Ed25519 key, got {type(key).__name__}")
        self._key = key
        self.public = public_bytes(key)
        self.fingerprint = fingerprint(self.public)

    def sign(self, topic: str, payload: bytes) -> str:
        """The signature property for one message."""
        return sign_message(self._key, topic, payload)


def _create(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, pem)
    path.chmod(0o600)
