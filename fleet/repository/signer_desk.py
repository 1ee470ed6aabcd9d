"""The signer's side of a signing event, on a machine that is not the manager's.

It remembers the root that it was given once and every version that it has seen, so that it signs
on top of what it knows and on nothing older or forked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
from tuf.api.exceptions import (
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Targets

from edge_contract.codec import decode_json, encode_json
from edge_contract.desired import DIRECTORS_TARGET, decode_directors
from edge_contract.errors import ContractError, ExitCode, TrustError
from edge_contract.layout import write_durably
from fleet.errors import FleetError
from fleet.repository.edition_signer import Draft
from fleet.repository.key_files import HeldKey
from fleet.repository.review import Change, differences, director_differences, require_permitted
from fleet.repository.role_files import check_signed
from fleet.repository.signing_event import SigningEvent, parse_roles, with_draft

LIFE_MAX = timedelta(days=400)
"""No signature may last longer, whatever the manager proposes."""
_MEMORY_LIMIT_BYTES = 4 << 20


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    digest: str


class _Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``FLEET.json``: the root in force, the newest version of every role that was seen, and the
    newest that this signer signed."""

    schema: int = 1
    root: bytes
    seen: dict[str, _Seen] = {}
    signed: dict[str, _Seen] = {}


@dataclass(frozen=True)
class Review:
    """An event that may be signed.

    changes: every difference, in words.
    skipped: roles whose current version this signer has not seen before, with both versions.
    roles: the roles that the key at hand counts for.
    """

    event: SigningEvent
    changes: tuple[Change, ...]
    skipped: tuple[str, ...]
    root: Metadata[Root]
    base: dict[str, Metadata[Targets]]


class SignerDesk:
    """Reviews and signs.

    Args:
        directory: where the signer's memory is kept, one file a fleet.
        now_s: the signer's clock, unix seconds.
    """

    def __init__(self, directory: Path, now_s: float) -> None:
        self._directory = directory
        self._now = datetime.fromtimestamp(now_s, timezone.utc)

    def review(self, event: SigningEvent, *, trust: bytes | None = None) -> Review:
        """Check an event against what this signer knows.

        Args:
            event: as it was read.
            trust: the root file, the first time.

        Raises:
            TrustError: it is not on top of what the signer knows, or changes more than it may.
            FleetError: no root is known yet.
        """
        memory = self._memory(event.fleet, trust)
        try:
            root, base, proposed = self._chain(event, memory)
        except (
            RepositoryError,
            ValueError,
        ) as error:  # tuf: ValueError for a role nobody delegates
            raise TrustError(
                f"signing event {event.id!r} refused: what it builds upon is not what was signed:"
                f" {error}",
                docs="explanation/trust.md",
            ) from error
        skipped = self._check_seen(event, memory, root, base)
        changes = self._changes(event, root, base, proposed)
        require_permitted(event.purpose, changes)
        return Review(event, tuple(changes), skipped, root, base)

    def sign(self, review: Review, key: HeldKey) -> tuple[SigningEvent, list[str]]:
        """The event with this key's signatures, and the roles that they count for.

        Raises:
            FleetError: the key is of no role that is proposed.
        """
        draft, base = review.event.draft(), review.base
        signed = []
        for role, metadata in draft.roles.items():
            delegators = _delegators(role, draft, review.root, base)
            if any(key.public.keyid in d.get_delegated_role(role).keyids for d in delegators):
                metadata.sign(key.signer, append=True)
                signed.append(role)
        if not signed:
            raise FleetError(
                f"the key of {key.owner!r} ({key.public.keyid[:12]}) counts for none of the roles"
                f" {sorted(draft.roles)}",
                hint="edge-fleet key status shows whose keys count for what",
                exit_code=ExitCode.AUTH,
            )
        self._remember(review, draft)
        return with_draft(review.event, draft), signed

    def _chain(
        self, event: SigningEvent, memory: _Memory
    ) -> tuple[Metadata[Root], dict[str, Metadata[Targets]], Draft]:
        """The root in force and the roles that stand now, verified up from the known root."""
        known = Metadata[Root].from_bytes(memory.root)
        root = known
        for data in event.roots:
            following = Metadata[Root].from_bytes(data)
            if following.signed.version <= root.signed.version:
                if following.signed.version == known.signed.version and data != memory.root:
                    raise TrustError(
                        f"signing event {event.id!r}: root {known.signed.version} is not the one"
                        " that this signer knows; somebody forked the repository"
                    )
                continue
            if following.signed.version != root.signed.version + 1:
                raise TrustError(f"signing event {event.id!r}: a root version is left out")
            check_signed(following, Root.type, root.signed)
            check_signed(following, Root.type, following.signed)
            root = following
        if not event.roots or event.roots[-1] != _newest(event, root):
            raise TrustError(f"signing event {event.id!r} builds upon an old root")
        base = parse_roles(event.base)
        if Targets.type not in base or Root.type in base:
            raise TrustError(f"signing event {event.id!r} does not carry the targets role")
        check_signed(base[Targets.type], Targets.type, root.signed)
        for role, metadata in base.items():
            if role != Targets.type:
                check_signed(metadata, role, base[Targets.type].signed)
        return root, base, event.draft()

    def _check_seen(
        self,
        event: SigningEvent,
        memory: _Memory,
        root: Metadata[Root],
        base: dict[str, Metadata[Targets]],
    ) -> tuple[str, ...]:
        skipped = []
        for role, metadata in base.items():
            seen = memory.seen.get(role)
            version = metadata.signed.version
            if seen is None:
                continue
            if version < seen.version:
                raise TrustError(
                    f"signing event {event.id!r} builds upon {role} version {version}, this signer"
                    f" has seen {seen.version}: rollback",
                    hint="ask the manager for an event on top of what was signed last",
                )
            if version == seen.version and _digest(metadata) != seen.digest:
                raise TrustError(
                    f"signing event {event.id!r}: {role} version {version} is not the one that"
                    " this signer has seen; somebody forked the repository"
                )
            known = memory.signed.get(role)
            if version > seen.version and known != _Seen(version=version, digest=_digest(metadata)):
                skipped.append(f"{role}: {seen.version} → {version}, signed by others meanwhile")
        return tuple(skipped)

    def _changes(
        self,
        event: SigningEvent,
        root: Metadata[Root],
        base: dict[str, Metadata[Targets]],
        proposed: Draft,
    ) -> list[Change]:
        changes: list[Change] = []
        standing = base[Targets.type].signed
        delegated = (standing.delegations.roles or {}) if standing.delegations else {}
        for role, metadata in proposed.roles.items():
            before = root if role == Root.type else base.get(role)
            if before is None and role in delegated:
                raise TrustError(f"signing event {event.id!r}: {role} is left out of its base")
            changes += differences(
                role,
                before.signed if before else None,
                metadata.signed,
                leap=event.leap,
                holders=root.signed.get_delegated_role(Targets.type),
            )
            if not self._now < metadata.signed.expires <= self._now + LIFE_MAX:
                raise TrustError(
                    f"signing event {event.id!r}: {role} would expire {metadata.signed.expires};"
                    f" expected within {LIFE_MAX.days} days from now"
                )
        after = proposed.roles.get(Targets.type)
        _check_directors(standing, event.base_directors)
        _check_directors(after.signed if after else standing, event.directors)
        changes += director_differences(
            decode_directors(event.base_directors), decode_directors(event.directors)
        )
        return changes

    def _memory(self, fleet: str, trust: bytes | None) -> _Memory:
        path = self._path(fleet)
        try:
            return decode_json(
                path.read_bytes(), _Memory, what=str(path), limit_bytes=_MEMORY_LIMIT_BYTES
            )
        except FileNotFoundError:
            pass
        except ContractError as error:
            raise FleetError(
                f"{error.message}: what this signer has seen so far is damaged",
                hint=f"restore {path} from a backup; without it, no old or forked state is noticed:"
                " only then remove it and say --trust ROOT with the newest root that you know",
                docs="how-to/ceremony.md",
            ) from error
        if trust is None:
            raise FleetError(
                f"this signer does not know the fleet {fleet!r} yet",
                hint="get its root file on a way that you trust, and say --trust ROOT once",
                exit_code=ExitCode.AUTH,
                docs="how-to/ceremony.md",
            )
        try:
            root = Metadata[Root].from_bytes(trust)
            check_signed(root, Root.type, root.signed)
        except (RepositoryError, UnsignedMetadataError) as error:
            raise TrustError(f"the root file is not a signed root: {error}") from error
        return _Memory(root=trust)

    def _remember(self, review: Review, draft: Draft) -> None:
        seen = {
            role: _Seen(version=metadata.signed.version, digest=_digest(metadata))
            for role, metadata in review.base.items()
        }
        signed = {
            role: _Seen(version=metadata.signed.version, digest=_digest(metadata))
            for role, metadata in draft.roles.items()
        }
        before = self._memory(review.event.fleet, review.event.roots[-1])
        memory = _Memory(
            root=review.event.roots[-1],
            seen={**before.seen, **seen},
            signed={**before.signed, **signed},
        )
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(self._path(review.event.fleet), encode_json(memory))

    def _path(self, fleet: str) -> Path:
        return self._directory / f"{fleet}.json"


def _delegators(
    role: str, draft: Draft, root: Metadata[Root], base: dict[str, Metadata[Targets]]
) -> list[Root | Targets]:
    new_root = draft.roles.get(Root.type)
    newest_root: Root = new_root.signed if new_root else root.signed
    if role == Root.type:
        return [root.signed, newest_root]
    if role == Targets.type:
        return [newest_root]
    targets = draft.roles.get(Targets.type)
    return [targets.signed if targets else base[Targets.type].signed]


def _newest(event: SigningEvent, root: Metadata[Root]) -> bytes:
    for data in event.roots:
        if Metadata[Root].from_bytes(data).signed.version == root.signed.version:
            return data
    return b""


def _check_directors(targets: Targets, data: bytes) -> None:
    target = targets.targets.get(DIRECTORS_TARGET)
    if target is None:
        raise ContractError("the targets role lists no directors.json")
    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise TrustError(f"directors.json is not what the targets role names: {error}") from error


def _digest(metadata: Metadata[Targets]) -> str:
    return hashlib.sha256(metadata.signed_bytes).hexdigest()
