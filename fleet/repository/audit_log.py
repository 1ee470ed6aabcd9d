"""Who did what, so that an outsider can tell whether anything was taken out, moved or rewritten.

One JSON object a line. Each entry holds its number, the hash of the line before it and a signature
by the manager's audit key, whose public half stands in the offline-signed directors list. Cutting
off the end would leave a good chain; so every timestamp that the manager signs names the newest
entry (``number:hash``), and whoever keeps an approval file or any timestamp holds that end.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Collection
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edge_contract.codec import decode_json, encode_json
from edge_contract.errors import ContractError, TrustError
from edge_contract.signing import fingerprint, public_bytes

_LINE_LIMIT_BYTES = 64 * 1024
_DETAIL_CHARS = 2000
FIRST = "0" * 64
"""The hash that stands before the first entry."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line. ``at`` is unix seconds; ``before`` the SHA-256 (hex) of the line before."""

    number: int
    at: float
    who: str
    action: str
    subject: str
    detail: str
    before: str
    keyid: str
    signature: str = ""


class AuditLog:
    """Appends entries to one file, durably; any number of processes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(
        self,
        key: Ed25519PrivateKey,
        at_s: float,
        who: str,
        action: str,
        subject: str,
        detail: str,
    ) -> AuditEntry:
        """Add one entry.

        Raises:
            OSError: the disk refuses; nothing was added.
            TrustError: the end of the file is not an entry.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            whole, before = self._end(file.read())
            entry = AuditEntry(
                number=_decode(before, "the last entry").number + 1 if before else 1,
                at=at_s,
                who=who[:120],
                action=action[:40],
                subject=subject[:200],
                detail=detail[:_DETAIL_CHARS],
                before=hashlib.sha256(before).hexdigest() if before else FIRST,
                keyid=fingerprint(public_bytes(key)),
            )
            signed = msgspec.structs.replace(entry, signature=key.sign(_signed_bytes(entry)).hex())
            file.seek(whole)
            file.truncate()  # half a line of a writer that was cut off
            file.write(encode_json(signed) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return signed

    def head(self) -> str:
        """``number:hash`` of the newest entry, "" for none."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return ""
        _, last = self._end(data)
        if not last:
            return ""
        return f"{_decode(last, str(self._path)).number}:{hashlib.sha256(last).hexdigest()}"

    def read(self) -> bytes:
        """The whole log; empty where there is none."""
        return self._path.read_bytes() if self._path.exists() else b""

    @staticmethod
    def _end(data: bytes) -> tuple[int, bytes]:
        """The length of all whole lines, and the last of them without its end."""
        whole = data.rfind(b"\n") + 1
        return whole, data[:whole].rstrip(b"\n").rpartition(b"\n")[2]


def verify_audit(data: bytes, keys: Collection[bytes], heads: Collection[str]) -> list[AuditEntry]:
    """Every entry, if the log is whole. Pure.

    Args:
        data: the file.
        keys: raw public keys that ever signed it, from the signed directors list.
        heads: ``number:hash`` that signed timestamps (or notes of one's own) hold.

    Raises:
        TrustError: an entry was edited, removed, moved, added by a stranger, or the end is gone.
    """
    known = {fingerprint(key): Ed25519PublicKey.from_public_bytes(key) for key in keys}
    before, entries, ends = FIRST, [], {f"0:{FIRST}"}
    lines = data.split(b"\n")
    if lines[-1]:
        lines.pop()  # cut off while it was written: it never counted
    for number, line in enumerate((line for line in lines if line), start=1):
        entry = _decode(line, f"entry {number}")
        if entry.number != number:
            raise _broken(number, f"expected number {number}, got {entry.number}: removed or moved")
        if entry.before != before:
            raise _broken(number, "it does not follow the entry before it: edited or moved")
        key = known.get(entry.keyid)
        if key is None:
            raise _broken(number, f"signed by {entry.keyid[:12]}…, which is no audit key")
        try:
            key.verify(bytes.fromhex(entry.signature), _signed_bytes(entry))
        except (InvalidSignature, ValueError) as error:
            raise _broken(number, "its signature is wrong: edited") from error
        before = hashlib.sha256(line).hexdigest()
        ends.add(f"{number}:{before}")
        entries.append(entry)
    for head in heads:
        if head not in ends:
            raise TrustError(
                f"the audit log has {len(entries)} entries and does not hold {head[:24]!r}…, which"
                " a signed timestamp names: its end was removed or rewritten"
            )
    return entries


def _signed_bytes(entry: AuditEntry) -> bytes:
    return encode_json(msgspec.structs.replace(entry, signature=""))


def _decode(line: bytes, where: str) -> AuditEntry:
    try:
        return decode_json(line, AuditEntry, what=where, limit_bytes=_LINE_LIMIT_BYTES)
    except ContractError as error:
        raise TrustError(
            f"audit log: {error.message}: edited",
            hint="keep a copy, find out who changed it, and take audit.jsonl from a backup",
        ) from error


def _broken(number: int, why: str) -> TrustError:
    return TrustError(f"audit log, entry {number}: {why}")
