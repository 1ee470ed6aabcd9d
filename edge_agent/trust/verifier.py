"""Verifying TUF metadata on the device, and remembering what was verified.

The decisions are python-tuf's (``TrustedMetadataSet``: the client workflow of the TUF
specification, section 5), with our own reference time instead of the system clock; ADR 0004 says
why, and what would notice a change inside python-tuf. This module orders the steps, finds the
delegation of the line and keeps what was verified, so that a rollback is refused after a restart
as well. It has no network and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import msgspec
from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Targets

from edge_agent.errors import DamagedTrustError
from edge_agent.trust.approved import ApprovedLine, HeldMetadata
from edge_agent.trust.decision_core import EnvelopeType, TrustedMetadataSet
from edge_agent.trust.kept_file import read_kept
from edge_agent.trust.line_role import approved_targets, delegated_role, min_release
from edge_agent.trust.offline_roles import read_role, verify_offline
from edge_contract.codec import decode_json, encode_json
from edge_contract.desired import DIRECTORS_TARGET, Directors, decode_directors
from edge_contract.errors import ContractError, TrustError
from edge_contract.layout import write_durably
from edge_contract.media import MediaSet, decode_media_set, encode_media_set
from edge_contract.metadata import (
    MetadataSet,
    parts_digest,
)

_STATE_LIMIT_BYTES = 4 << 20
"""Above the largest set and the largest medium in base64 (no roots in them), and a root."""

_ATTACKS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.UnsignedMetadataError, "not signed by a threshold of the keys of its role"),
    (exceptions.ExpiredMetadataError, "expired: the metadata is old, or is being held back"),
    (exceptions.BadVersionNumberError, "rollback, or a version out of sequence"),
    (exceptions.LengthOrHashMismatchError, "mix-and-match: not the file that was signed for"),
)


class _Trusted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was verified last. Empty bytes: nothing yet.

    media: the last ``MediaSet`` that was verified.
    versions: the newest versions seen on media, by role; online metadata may not go behind them.
    """

    schema: int = 1
    anchor: bytes
    root: bytes
    timestamp: bytes = b""
    snapshot: bytes = b""
    line: str = ""
    targets: bytes = b""
    line_role: bytes = b""
    directors: bytes = b""
    media: bytes = b""
    versions: dict[str, int] = {}


class TrustStore:
    """The device's verified metadata, in one durable file.

    Args:
        directory: where ``trusted.json`` is kept; made if it does not exist.
        root: the bytes of the root file that a person gave this device. Needed the first time;
            later it may be given again, and must then belong to the same repository.

    Raises:
        TrustError: no root is known; the root is not signed by its own keys; or it belongs to
            another repository than the one trusted so far.
        DamagedTrustError: the file is damaged.
    """

    def __init__(self, directory: Path, *, root: bytes | None = None) -> None:
        self._path = directory / "trusted.json"
        kept = self._load()
        if kept is None:
            if root is None:
                raise TrustError(
                    f"{directory}: this device trusts no repository yet",
                    hint="give it the fleet's root file once: `trust_root` in its configuration,"
                    " or --trust ROOT",
                    docs="explanation/trust.md",
                )
            with _refusals("root"):
                TrustedMetadataSet(root, EnvelopeType.METADATA)
            directory.mkdir(parents=True, exist_ok=True)
            self._state = _Trusted(anchor=root, root=root)
            write_durably(self._path, encode_json(self._state))
        else:
            self._state = kept
            if root is not None and root not in (kept.anchor, kept.root):
                self._check_same_repository(root)

    @property
    def anchor(self) -> bytes:
        """The root file that this device began with."""
        return self._state.anchor

    @property
    def root_version(self) -> int:
        """The version of the root that is trusted now."""
        return Metadata[Root].from_bytes(self._state.root).signed.version

    @property
    def held(self) -> HeldMetadata:
        """What is kept. It is computed from the files, so no other record can disagree."""
        return HeldMetadata(self.root_version, parts_digest(self._kept_set()))

    def update_root(self, data: bytes) -> None:
        """Check the root after the one that is trusted, and remember it.

        Raises:
            TrustError: refused, or another version than the next.
        """
        with _refusals("root"):
            trusted = TrustedMetadataSet(self._state.root, EnvelopeType.METADATA)
            trusted.update_root(data)
        before = self._state
        self._keep(root=data)
        self._write(before)

    def verify(self, metadata: MetadataSet, *, reference_s: float) -> ApprovedLine:
        """Check a metadata set by TUF's rules, and remember it.

        What was verified before a refusal is kept, as TUF demands: a new root counts although
        the timestamp after it was refused.

        Args:
            metadata: as it came from the wire or from a file.
            reference_s: the time to check expiry against (``TimeFloor.reference_s``).

        Raises:
            TrustError: refused; the message names the role and the attack that it looks like.
            ContractError: ``directors.json`` is malformed.
        """
        before = self._state
        try:
            return self._verify(metadata, reference_s)
        finally:
            self._write(before)

    def approved(self, *, reference_s: float) -> ApprovedLine | None:
        """What was verified last, checked again at ``reference_s``; None if nothing was.

        What came online counts before what came on a medium.

        Raises:
            TrustError: it has expired since.
        """
        kept = self._state
        if kept.media:
            media = decode_media_set(kept.media, where=str(self._path))
            try:
                return self._approved_online(reference_s) or self.verify_media(
                    media, reference_s=reference_s
                )
            except TrustError:
                return self.verify_media(media, reference_s=reference_s)
        return self._approved_online(reference_s)

    def verify_media(self, media: MediaSet, *, reference_s: float) -> ApprovedLine:
        """Check the TUF files of an offline medium, and remember them.

        Args:
            media: as it was read.
            reference_s: the time to check expiry against (``TimeFloor.reference_s``).

        Raises:
            TrustError: refused; the message names the attack that it looks like.
            ContractError: ``directors.json`` is malformed.
        """
        with _refusals("offline medium"):
            targets = read_role(Targets, media.targets).signed
            role = delegated_role(targets, media.line)
            versions = self._versions_seen(role)
            edition = verify_offline(media, self._state.root, role, versions, reference_s)
        directors = _directors(edition.targets, media.directors)
        approved = ApprovedLine(
            line=media.line,
            timestamp_version=edition.timestamp.version,
            expires_s=edition.expires_s,
            targets=approved_targets(edition.line_role, media.line),
            directors=directors,
            min_release=min_release(edition.line_role, media.line),
        )
        before = self._state
        self._keep(
            root=edition.root_bytes,
            # Its roots are verified, and can be hundreds.
            media=encode_media_set(msgspec.structs.replace(media, roots=[])),
            versions={**before.versions, **edition.versions(role)},
        )
        self._write(before)
        return approved

    def _versions_seen(self, role: str) -> dict[str, int]:
        """The newest versions of targets and of the line, online or on a medium."""
        seen = dict(self._state.versions)
        for name, data in ((Targets.type, self._state.targets), (role, self._state.line_role)):
            if data:
                version = Metadata[Targets].from_bytes(data).signed.version
                seen[name] = max(seen.get(name, 0), version)
        return seen

    def _approved_online(self, reference_s: float) -> ApprovedLine | None:
        if not self._state.directors:
            return None
        return self.verify(self._kept_set(), reference_s=reference_s)

    def _kept_set(self) -> MetadataSet:
        kept = self._state
        return MetadataSet(
            line=kept.line,
            roots=[],
            timestamp=kept.timestamp,
            snapshot=kept.snapshot,
            targets=kept.targets,
            line_role=kept.line_role,
            directors=kept.directors,
        )

    def _verify(self, metadata: MetadataSet, reference_s: float) -> ApprovedLine:
        with _refusals("root"):
            trusted = TrustedMetadataSet(self._state.root, EnvelopeType.METADATA)
            trusted.reference_time = datetime.fromtimestamp(reference_s, timezone.utc)
            for data in metadata.roots:
                if Metadata[Root].from_bytes(data).signed.version > trusted.root.version:
                    trusted.update_root(data)
                    self._keep(root=data)
        with _refusals("timestamp"):
            self._update_timestamp(trusted, metadata.timestamp)
        with _refusals("snapshot"):
            self._update_snapshot(trusted, metadata.snapshot)
        with _refusals("targets"):
            targets = trusted.update_targets(metadata.targets)
        role = delegated_role(targets, metadata.line)
        with _refusals(f"{role!r}"):
            line_role = trusted.update_delegated_targets(metadata.line_role, role, Targets.type)
        with _refusals(f"{role!r}"):
            for name, signed in ((Targets.type, targets), (role, line_role)):
                if signed.version < self._state.versions.get(name, 0):
                    raise exceptions.BadVersionNumberError(
                        f"{name} version {signed.version} is older than what a medium brought"
                    )
        directors = _directors(targets, metadata.directors)
        self._keep(
            line=metadata.line,
            targets=metadata.targets,
            line_role=metadata.line_role,
            directors=metadata.directors,
        )
        roles = (trusted.root, trusted.timestamp, trusted.snapshot, targets, line_role)
        return ApprovedLine(
            line=metadata.line,
            timestamp_version=trusted.timestamp.version,
            expires_s=min(role.expires for role in roles).timestamp(),
            targets=approved_targets(line_role, metadata.line),
            directors=directors,
            min_release=min_release(line_role, metadata.line),
        )

    def _update_timestamp(self, trusted: TrustedMetadataSet, data: bytes) -> None:
        if self._state.timestamp:
            # The one from before guards against rollback even when it has expired. It no longer
            # counts when a new root names other keys for it: that is how a stolen timestamp key,
            # used to sign a version far ahead, is recovered from (specification, 5.3.11).
            try:
                trusted.update_timestamp(self._state.timestamp)
            except exceptions.RepositoryError:
                pass
            else:
                if data == self._state.timestamp:
                    return
        try:
            trusted.update_timestamp(data)
        except exceptions.EqualVersionNumberError:
            if trusted.timestamp.is_expired(trusted.reference_time):
                raise exceptions.ExpiredMetadataError("timestamp.json is expired") from None
            return
        self._keep(timestamp=data)

    def _update_snapshot(self, trusted: TrustedMetadataSet, data: bytes) -> None:
        if self._state.snapshot:
            try:
                trusted.update_snapshot(self._state.snapshot, trusted=True)
            except exceptions.RepositoryError:
                pass
            else:
                if data == self._state.snapshot:
                    return
        trusted.update_snapshot(data)
        self._keep(snapshot=data)

    def _keep(self, **verified: bytes | str | dict[str, int]) -> None:
        changed = msgspec.structs.replace(self._state, **verified)
        if changed != self._state:
            self._state = changed

    def _write(self, before: _Trusted) -> None:
        if self._state is before:
            return
        try:
            write_durably(self._path, encode_json(self._state))
        except OSError:
            # Only what the disk has taken counts: else it would not be asked for again.
            self._state = before
            raise

    def _load(self) -> _Trusted | None:
        data = read_kept(self._path)
        if data is None:
            return None
        try:
            return decode_json(data, _Trusted, what=str(self._path), limit_bytes=_STATE_LIMIT_BYTES)
        except ContractError as error:
            raise DamagedTrustError(
                f"{error}; new installs stop, what runs keeps running",
                hint=f"if the disk was damaged and the device is yours, remove {self._path} and"
                " give the device its root file again",
            ) from error

    def _check_same_repository(self, root: bytes) -> None:
        """A root given again is the same repository's if one of the two signed for the other."""
        with _refusals("root"):
            TrustedMetadataSet(root, EnvelopeType.METADATA)
        given = Metadata[Root].from_bytes(root)
        known = Metadata[Root].from_bytes(self._state.root)
        for signer, signed in ((known, given), (given, known)):
            try:
                signer.signed.verify_delegate(Root.type, signed.signed_bytes, signed.signatures)
            except exceptions.UnsignedMetadataError:
                continue
            return
        raise TrustError(
            f"the root file given (version {given.signed.version}) belongs to another repository"
            f" than the one that this device trusts ({self._path})",
            hint=f"to move the device to another fleet, stop the agent and remove {self._path}",
            docs="explanation/trust.md",
        )


def _directors(targets: Targets, data: bytes) -> Directors:
    target = targets.targets.get(DIRECTORS_TARGET)
    if target is None:
        raise TrustError(f"the targets role lists no {DIRECTORS_TARGET}: nobody may give orders")
    with _refusals(DIRECTORS_TARGET):
        target.verify_length_and_hashes(data)
    return decode_directors(data)


@contextmanager
def _refusals(role: str) -> Iterator[None]:
    """Turn python-tuf's refusals into ours, with the role and the attack in the message."""
    try:
        yield
    except exceptions.RepositoryError as error:
        attack = next((text for kind, text in _ATTACKS if isinstance(error, kind)), "malformed")
        raise TrustError(
            f"{role} metadata refused: {attack}: {error}", docs="explanation/trust.md"
        ) from error
