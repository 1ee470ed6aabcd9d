"""Content digests: ``sha256:`` and 64 lower-case hexadecimal digits, as OCI writes them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from edge_contract.errors import ContractError, TrustError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(data: bytes) -> str:
    """The digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of_chunks(chunks: Iterable[bytes]) -> str:
    """The digest of the concatenation of ``chunks``, without holding it in memory."""
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return "sha256:" + state.hexdigest()


def check_digest(text: str, *, where: str) -> str:
    """``text`` if it has the form of a digest.

    Raises:
        ContractError: it has another form; ``where`` says whose it is.
    """
    if not _DIGEST.fullmatch(text):
        raise ContractError(
            f"{where}: expected 'sha256:' and 64 lower-case hex digits, got {text[:80]!r}"
        )
    return text


def hex_of(digest: str) -> str:
    """The 64 hexadecimal digits of a checked digest."""
    return digest.removeprefix("sha256:")


def require_digest(data: bytes, expected: str, *, where: str) -> bytes:
    """``data`` if its digest is ``expected``.

    Raises:
        TrustError: it is not.
    """
    actual = digest_of(data)
    if actual != expected:
        raise TrustError(
            f"{where}: digest differs: expected {expected}, got {actual} ({len(data)} bytes)",
            hint="the content was damaged or tampered with; fetch it again from its source",
        )
    return data
