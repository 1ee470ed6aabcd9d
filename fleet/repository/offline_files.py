"""The offline snapshot and timestamp on their way through their signers' hands.

Nothing in the file is believed: whoever signs is shown what it stands for, and what would outlive
all other signatures, or says two things at once, is refused.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Snapshot, Timestamp

from edge_contract.codec import DOCUMENT_LIMIT_BYTES, decode_json
from edge_contract.errors import ContractError, ExitCode, TrustError
from edge_contract.topics import check_id
from fleet.errors import FleetError
from fleet.repository.archive import Archive
from fleet.repository.key_files import HeldKey
from fleet.repository.role_files import to_bytes
from fleet.repository.signer_desk import LIFE_MAX

_ROLE_FILE = re.compile(r"(targets|line-[a-z0-9][a-z0-9-]{0,39})\.json")


class OfflineFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The offline snapshot and timestamp, with the signatures that they have so far."""

    schema: int = 1
    fleet: str
    snapshot: bytes
    timestamp: bytes


def sign_offline_files(files: OfflineFiles, key: HeldKey, *, now_s: float) -> OfflineFiles:
    """The files with the signatures of a key that somebody holds.

    Args:
        files: as they were read and shown.
        key: the signer's.
        now_s: the signer's clock, unix seconds.

    Raises:
        ContractError: not a fleet's name.
        TrustError: not offline files, or more than ``describe_offline_files`` shows of them.
    """
    snapshot, timestamp = parse_offline_files(files)
    _require_plain(files, snapshot.signed, timestamp.signed, now_s)
    snapshot.sign(key.signer, append=True)
    timestamp.sign(key.signer, append=True)
    return msgspec.structs.replace(
        files, snapshot=to_bytes(snapshot), timestamp=to_bytes(timestamp)
    )


def describe_offline_files(files: OfflineFiles) -> list[str]:
    """What a signer should read before signing: every role and version, and until when.

    Raises:
        TrustError: not offline files.
    """
    snapshot, timestamp = parse_offline_files(files)
    until = max(snapshot.signed.expires, timestamp.signed.expires)
    roles = [
        f"{ascii(name)[1:-1]} version {meta.version}" for name, meta in snapshot.signed.meta.items()
    ]
    number = timestamp.signed.version
    head = f"fleet {ascii(files.fleet)[1:-1]}, number {number}, until {until:%Y-%m-%d}"
    return [head, *roles]


def _require_plain(
    files: OfflineFiles, snapshot: Snapshot, timestamp: Timestamp, now_s: float
) -> None:
    check_id(files.fleet, what="offline files: fleet")
    now = datetime.fromtimestamp(now_s, timezone.utc)
    for signed in (snapshot, timestamp):
        if not now < signed.expires <= now + LIFE_MAX:
            raise TrustError(
                f"offline files: {signed.type} would expire {signed.expires}; expected within"
                f" {LIFE_MAX.days} days from now"
            )
        if signed.unrecognized_fields:
            raise TrustError(f"offline files: {signed.type} holds what this release does not know")
    if not snapshot.version == timestamp.version == timestamp.snapshot_meta.version:
        raise TrustError("offline files: snapshot and timestamp are not of one number")
    strange = [name for name in snapshot.meta if not _ROLE_FILE.fullmatch(name)]
    if strange:
        raise TrustError(f"offline files: {strange[0][:60]!a} is no role of a fleet's")


def kept_path(archive: Archive) -> Path:
    """Where the files lie that media are written with."""
    return archive.state_dir / "tuf" / "offline.json"


def kept_until_s(archive: Archive) -> float | None:
    """Until when those count, in unix seconds; None where people were never asked to sign any.

    Raises:
        FleetError, TrustError: they are damaged.
    """
    path = kept_path(archive)
    if not path.exists():
        return None
    snapshot, timestamp = parse_offline_files(read_offline_files(path))
    return min(snapshot.signed.expires, timestamp.signed.expires).timestamp()


def read_offline_files(path: Path) -> OfflineFiles:
    """Read the file of ``media prepare``.

    Raises:
        FleetError: missing or malformed.
    """
    try:
        data = path.read_bytes()
        return decode_json(data, OfflineFiles, what=str(path), limit_bytes=DOCUMENT_LIMIT_BYTES)
    except OSError as error:
        raise FleetError(
            f"cannot read {path}: {error.strerror}", exit_code=ExitCode.NOT_FOUND
        ) from error
    except ContractError as error:
        raise FleetError(
            error.message, hint="expected the file that `edge-fleet media prepare` wrote"
        ) from error


def parse_offline_files(files: OfflineFiles) -> tuple[Metadata[Snapshot], Metadata[Timestamp]]:
    try:
        snapshot = Metadata[Snapshot].from_bytes(files.snapshot)
        timestamp = Metadata[Timestamp].from_bytes(files.timestamp)
    except RepositoryError as error:
        raise TrustError(f"not offline metadata: {error}") from error
    if not (isinstance(snapshot.signed, Snapshot) and isinstance(timestamp.signed, Timestamp)):
        raise TrustError("not an offline snapshot and timestamp")
    return snapshot, timestamp
