"""Checking a bundle and its approval with nothing but a root file: what an outsider can do.

python-tuf decides, as on the device; besides the verdict it says who signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from edge_contract.desired import DIRECTORS_TARGET, Directors, decode_directors
from edge_contract.errors import TrustError
from edge_contract.metadata import MetadataSet, target_path
from fleet.repository.edition_signer import AUDIT_FIELD, owner_of, role_keys
from fleet.repository.role_files import line_role


@dataclass(frozen=True)
class SignedRole:
    """One link of the chain: who signed it, of how many needed, and until when (unix s)."""

    role: str
    version: int
    threshold: int
    signers: tuple[str, ...]
    expires_s: float


@dataclass(frozen=True)
class Verified:
    """An approval that holds.

    versions: version -> digest of its manifest.
    audit_head: ``number:hash`` that the timestamp names, "" for none.
    """

    line: str
    roles: tuple[SignedRole, ...]
    versions: dict[str, str]
    directors: Directors
    audit_head: str


def verify_approval(approval: MetadataSet, root: bytes, now_s: float) -> Verified:
    """Follow an approval from the root that the caller trusts to the versions that it names.

    Args:
        approval: of one line.
        root: the bytes of a root file, of any version of this repository.
        now_s: the time to check expiry against, unix seconds.

    Raises:
        TrustError: a link does not hold.
    """
    role = line_role(approval.line)
    try:
        trusted = TrustedMetadataSet(root, EnvelopeType.METADATA)
        trusted.reference_time = datetime.fromtimestamp(now_s, timezone.utc)
        for data in approval.roots:
            if Metadata[Root].from_bytes(data).signed.version > trusted.root.version:
                trusted.update_root(data)
        timestamp = trusted.update_timestamp(approval.timestamp)
        trusted.update_snapshot(approval.snapshot)
        targets = trusted.update_targets(approval.targets)
        line = trusted.update_delegated_targets(approval.line_role, role, Targets.type)
        target = targets.targets.get(DIRECTORS_TARGET)
        if target is None:
            raise TrustError("the targets role lists no directors")
        target.verify_length_and_hashes(approval.directors)
    except exceptions.RepositoryError as error:
        raise TrustError(
            f"the approval does not hold: {error}", docs="explanation/trust.md"
        ) from error
    newest = approval.roots[-1] if approval.roots else root
    links = (
        (Root.type, newest, trusted.root),
        (Timestamp.type, approval.timestamp, trusted.root),
        (Snapshot.type, approval.snapshot, trusted.root),
        (Targets.type, approval.targets, trusted.root),
        (role, approval.line_role, targets),
    )
    prefix = target_path(approval.line, "")
    return Verified(
        line=approval.line,
        roles=tuple(_link(name, data, delegator) for name, data, delegator in links),
        versions={
            path.removeprefix(prefix): "sha256:" + item.hashes["sha256"]
            for path, item in line.targets.items()
            if path.startswith(prefix)
        },
        directors=decode_directors(approval.directors),
        audit_head=str(timestamp.unrecognized_fields.get(AUDIT_FIELD, "")),
    )


def _link(role: str, data: bytes, delegator: Root | Targets) -> SignedRole:
    metadata: Metadata[Targets] = Metadata.from_bytes(data)
    done = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    signers = [owner_of(key) for key in role_keys(delegator, role) if key.keyid in done.signed]
    return SignedRole(
        role,
        metadata.signed.version,
        done.threshold,
        tuple(signers),
        metadata.signed.expires.timestamp(),
    )
