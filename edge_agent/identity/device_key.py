"""The device's own key: made here on first start, never leaves, pinned at enrolment.

One Ed25519 key signs messages and certificate requests and speaks TLS, so what the fleet pinned,
what the certificate names and who connects cannot be three different things.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from edge_agent.errors import AgentError
from edge_contract.errors import ExitCode
from edge_contract.layout import fsync_dir
from edge_contract.signing import fingerprint, public_bytes, sign_message

NAME_CHARS_MAX = 64
"""Of a certificate's common name (RFC 5280, ub-common-name)."""


class Identity:
    """Signs what this device says.

    Args:
        path: the PEM file; created with mode 0600 where it is missing.

    Raises:
        AgentError: the file is there but is not an Ed25519 key, or others may read it. It is never
            replaced silently: a new key would need a new enrolment.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            _create(path)
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                raise AgentError(
                    f"{path}: others may read this private key (mode {mode:04o}, expected 0600)",
                    hint=f"if nobody else can have read it: chmod 600 {path}; else make a new one:"
                    f" rm {path}, and enrol the device anew",
                )
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise AgentError(
                f"{path}: not a readable private key: {error}",
                hint=f"restore it from a backup; or remove it and enrol the device anew: rm {path}",
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise AgentError(f"{path}: expected an Ed25519 key, got {type(key).__name__}")
        self._key = key
        self.path = path
        self.public = public_bytes(key)
        self.fingerprint = fingerprint(self.public)

    def sign(self, topic: str, payload: bytes) -> str:
        """The signature property for one message."""
        return sign_message(self._key, topic, payload)

    def request(self, fleet: str, device: str) -> str:
        """A certificate request (PEM) for ``CN={fleet}/{device}``, signed by the key itself.

        Raises:
            AgentError: the name is longer than a certificate can hold.
        """
        if len(f"{fleet}/{device}") > NAME_CHARS_MAX:
            raise AgentError(
                f"{fleet}/{device}: a certificate's name holds at most {NAME_CHARS_MAX} characters",
                hint="choose a shorter [device] id",
                exit_code=ExitCode.USAGE,
            )
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{fleet}/{device}"),
            ]
        )
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(self._key, None)
        return request.public_bytes(Encoding.PEM).decode()


def _create(path: Path) -> None:
    """Make a key that is never readable by others, and never replaces one that is there."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        # `edge-agent enroll` beside a starting agent: the first key counts.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(path.parent)
