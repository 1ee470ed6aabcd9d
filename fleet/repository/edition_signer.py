"""The next edition of the metadata: drafted, signed by whom it takes, and committed as one.

A draft holds the new versions of the offline roles (root, targets, lines). What the manager has
keys for is signed at once; what people hold the keys of waits in a signing event. Snapshot and
timestamp are signed last, when a draft has all its signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from edge_contract.errors import ExitCode
from edge_contract.signing import ed25519_key, public_bytes
from fleet.errors import FleetError
from fleet.repository.key_files import OWNER_FIELD
from fleet.repository.keys import ManagerKeys
from fleet.repository.message_sizes import SIGNATURE_BYTES, check_message_sizes
from fleet.repository.role_files import Edition, RoleFiles, check_signed, line_of, to_bytes

_DAY_S = 86_400.0
AUDIT_FIELD = "x-wherry-audit"
"""Signed field of the timestamp: number and hash of the newest entry of the audit log."""
S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True)
class Lifetimes:
    """How long a signature lasts, in seconds; each is renewed at half of its life.

    The timestamp's life is the longest that an attacker on the wire can hold a device back
    unnoticed, and the longest that the manager may be away before new installs stop.
    """

    root_s: float = 365 * _DAY_S
    targets_s: float = 365 * _DAY_S
    snapshot_s: float = 30 * _DAY_S
    timestamp_s: float = 7 * _DAY_S
    director_s: float = 365 * _DAY_S
    offline_s: float = 365 * _DAY_S

    def of(self, role_type: str) -> float:
        """The life of a type of metadata; model lines live as long as the targets role."""
        return {
            Root.type: self.root_s,
            Targets.type: self.targets_s,
            Snapshot.type: self.snapshot_s,
            Timestamp.type: self.timestamp_s,
        }[role_type]


DEFAULT_LIFETIMES = Lifetimes()


@dataclass
class Draft:
    """New versions of offline roles, with the signatures that they have so far.

    roles: role name -> metadata; empty when only snapshot and timestamp are due.
    directors: the bytes of ``directors.json`` that the targets of this edition name.
    leap: how much further than the next version snapshot and timestamp shall go.
    """

    roles: dict[str, Metadata[Any]]
    directors: bytes
    leap: int = 0


@dataclass(frozen=True)
class Missing:
    """What a role of a draft still lacks.

    role: the role; where: whose list of keys asks ("the keys before" for a root's predecessor).
    count: how many signatures more. owners: who could give them.
    """

    role: str
    where: str
    count: int
    owners: tuple[str, ...] = field(default_factory=tuple)

    def sentence(self) -> str:
        """For people."""
        return f"{self.role} ({self.where}) needs {self.count} more of {', '.join(self.owners)}"


def owner_of(key: Key) -> str:
    """Who holds a key; "the manager" for its own."""
    return str(key.unrecognized_fields.get(OWNER_FIELD, "")) or "the manager"


def is_offline(delegator: Root | Targets, role: str) -> bool:
    """Whether people hold keys of ``role``, as ``delegator`` names them."""
    return any(OWNER_FIELD in key.unrecognized_fields for key in role_keys(delegator, role))


def role_keys(delegator: Root | Targets, role: str) -> list[Key]:
    """The keys of ``role``, as ``delegator`` names them."""
    keyids = delegator.get_delegated_role(role).keyids
    return [delegator.get_key(keyid) for keyid in keyids]


class EditionSigner:
    """Drafts, signs and commits metadata. The caller holds the repository's lock.

    Args:
        files: where the signed files go.
        keys: the manager's own.
        clock: unix seconds.
        lifetimes: how long signatures last.
        audit_head: number and hash of the newest audit entry, for the timestamp; "" for none.
    """

    def __init__(
        self,
        files: RoleFiles,
        keys: ManagerKeys,
        clock: Callable[[], float],
        lifetimes: Lifetimes,
        audit_head: Callable[[], str],
    ) -> None:
        self._files = files
        self._keys = keys
        self._clock = clock
        self._lifetimes = lifetimes
        self._audit_head = audit_head

    def due(self, signed: Root | Timestamp | Snapshot | Targets) -> bool:
        """Whether less than half of its life is left."""
        now = datetime.fromtimestamp(self._clock(), timezone.utc)
        return signed.expires - now < timedelta(seconds=self._lifetimes.of(signed.type) / 2)

    def can_sign(self, role: str, delegator: Root | Targets) -> bool:
        """Whether the manager's own keys reach the threshold of a role."""
        named = delegator.get_delegated_role(role)
        return len(self._keys.held(role, named.keyids)) >= named.threshold

    def write_first_root(self) -> None:
        """Version 1 of the root, naming one key each for the four top-level roles."""
        root = Root(version=1, expires=self.expiry(Root.type), consistent_snapshot=True)
        for role in (Root.type, Targets.type, Snapshot.type, Timestamp.type):
            root.add_key(ed25519_key(public_bytes(self._keys.load(role))), role)
        metadata = Metadata(root)
        self._sign(Root.type, metadata, [root])
        self._files.write_role(Root.type, 1, to_bytes(metadata))

    def draft(
        self,
        base: Edition | None,
        changed: Mapping[str, Root | Targets],
        directors: bytes,
        *,
        leap: int = 0,
    ) -> Draft:
        """The next versions of ``changed``, with fresh expiries, signed with the manager's keys.

        Args:
            base: the edition before; None for the first.
            changed: role name -> its new content; versions and expiries are set here.
            directors: the bytes of ``directors.json``.
            leap: how much further than the next version to go (never for a root).
        """
        roles: dict[str, Metadata[Any]] = {}
        for role, signed in changed.items():
            before = base.role(role) if base else None
            signed.version = before.signed.version + 1 if before else 1
            if role != Root.type:
                signed.version += leap
            signed.expires = self.expiry(signed.type)
            metadata: Metadata[Any] = Metadata(signed)
            roles[role] = metadata
        draft = Draft(roles, directors, leap)
        for role, metadata in roles.items():
            self._sign(role, metadata, self.delegators(draft, base, role))
        return draft

    def delegators(self, draft: Draft, base: Edition | None, role: str) -> list[Root | Targets]:
        """Who names the keys that have to sign ``role``: for a root, the one before as well."""
        new_root = draft.roles.get(Root.type)
        if role == Root.type:
            before = [base.root.signed] if base else []
            assert new_root is not None
            return [*before, new_root.signed]
        if role == Targets.type:
            if new_root is not None:
                return [new_root.signed]
            return (
                [base.root.signed]
                if base
                else [Metadata[Root].from_bytes(self._roots()[-1]).signed]
            )
        new_targets = draft.roles.get(Targets.type)
        if new_targets is not None:
            return [new_targets.signed]
        assert base is not None
        return [base.targets.signed]

    def missing(self, draft: Draft, base: Edition | None) -> list[Missing]:
        """What signatures the draft lacks; empty when it can be committed."""
        found = []
        for role, metadata in draft.roles.items():
            delegators = self.delegators(draft, base, role)
            for number, delegator in enumerate(delegators):
                done = delegator.get_verification_result(
                    role, metadata.signed_bytes, metadata.signatures
                )
                if done:
                    continue
                lacking = [
                    key for key in role_keys(delegator, role) if key.keyid not in done.signed
                ]
                old = role == Root.type and len(delegators) > 1 and number == 0
                found.append(
                    Missing(
                        role,
                        "the keys before" if old else "its keys",
                        done.threshold - len(done.signed),
                        tuple(owner_of(key) for key in lacking),
                    )
                )
        return found

    def commit(self, base: Edition | None, draft: Draft) -> Edition:
        """Sign snapshot and timestamp over a draft, and make that the edition that exists.

        Raises:
            FleetError: signatures or a key are missing, or the metadata would be longer than a
                device accepts; nothing was committed.
        """
        lacking = self.missing(draft, base)
        if lacking:
            raise FleetError(
                "signatures are missing: " + "; ".join(item.sentence() for item in lacking),
                exit_code=ExitCode.AUTH,
            )
        edition, written = self._edition(base, draft)
        check_message_sizes(edition, draft.directors)
        if Root.type in draft.roles:
            version = edition.root.signed.version
            self._files.drop_roots_after(version - 1)
            self._files.write_role(Root.type, version, edition.roots[-1])
        for role, number in written.items():
            self._files.write_role(role, number, edition.raw[role])
        self._files.write_timestamp(edition.raw[Timestamp.type])
        return edition

    def check_sizes(self, base: Edition | None, draft: Draft, lacking: Sequence[Missing]) -> None:
        """Whether the draft will fit with the signatures that it still lacks: asked before people
        give them.

        Raises:
            FleetError: it would be longer than a device accepts, or a key is missing.
        """
        edition, _ = self._edition(base, draft)
        to_come: dict[str, int] = {}
        for item in lacking:
            to_come[item.role] = to_come.get(item.role, 0) + item.count * SIGNATURE_BYTES
        check_message_sizes(edition, draft.directors, to_come)

    def _edition(self, base: Edition | None, draft: Draft) -> tuple[Edition, dict[str, int]]:
        """What a draft makes of ``base``, and the versions of its new files, roots apart."""
        roots = list(base.roots) if base else self._roots()
        if Root.type in draft.roles:
            roots.append(to_bytes(draft.roles[Root.type]))
        root = Metadata[Root].from_bytes(roots[-1])
        raw = {**(base.raw if base else {}), Root.type: roots[-1]}
        meta = dict(base.snapshot.signed.meta) if base else {}
        lines = dict(base.lines) if base else {}
        written: dict[str, int] = {}
        targets = base.targets if base else None
        for role, metadata in draft.roles.items():
            if role == Root.type:
                continue
            offline: Metadata[Targets] = metadata
            raw[role] = to_bytes(offline)
            written[role] = offline.signed.version
            meta[f"{role}.json"] = _meta_file(offline.signed.version, raw[role])
            if role == Targets.type:
                targets = offline
            else:
                lines[line_of(role)] = offline
        assert targets is not None
        snapshot, timestamp = self._online(base, root, meta, raw, written, draft)
        edition = Edition(root, timestamp, snapshot, targets, lines, raw, tuple(roots))
        return edition, written

    def expiry(self, role_type: str) -> datetime:
        """When a role that is signed now expires."""
        return self.expiry_after(self._lifetimes.of(role_type))

    def expiry_after(self, life_s: float) -> datetime:
        """``life_s`` from now, in whole seconds."""
        return datetime.fromtimestamp(int(self._clock() + life_s), timezone.utc)

    def sign_online(self, role: str, signed: S, delegator: Root | Targets) -> Metadata[S]:
        """``signed`` with the manager's keys of a role.

        Raises:
            FleetError: they do not reach the threshold.
        """
        metadata = Metadata(signed)
        self._sign(role, metadata, [delegator])
        return metadata

    def sign_held(self, role: str, metadata: Metadata[Any], delegator: Root | Targets) -> None:
        """Add the signatures of the manager's keys, however many they are."""
        for key in self._keys.held(role, delegator.get_delegated_role(role).keyids):
            metadata.sign(CryptoSigner(key, ed25519_key(public_bytes(key))), append=True)

    def _online(
        self,
        base: Edition | None,
        root: Metadata[Root],
        meta: dict[str, MetaFile],
        raw: dict[str, bytes],
        written: dict[str, int],
        draft: Draft,
    ) -> tuple[Metadata[Snapshot], Metadata[Timestamp]]:
        """A timestamp, and a snapshot where one is due, under ``root``."""
        snapshot = base.snapshot if base else None
        if snapshot is not None and Root.type in draft.roles:
            try:
                check_signed(snapshot, Snapshot.type, root.signed)
            except UnsignedMetadataError:
                snapshot = None  # the new root names other keys for it
        if snapshot is None or written or draft.leap or self.due(snapshot.signed):
            number = base.snapshot.signed.version + 1 + draft.leap if base else 1
            content = Snapshot(number, expires=self.expiry(Snapshot.type), meta=meta)
            snapshot = self.sign_online(Snapshot.type, content, root.signed)
            raw[Snapshot.type] = to_bytes(snapshot)
            written[Snapshot.type] = number
        head = self._audit_head()
        stamp = Timestamp(
            base.timestamp.signed.version + 1 + draft.leap if base else 1,
            expires=self.expiry(Timestamp.type),
            snapshot_meta=_meta_file(snapshot.signed.version, raw[Snapshot.type]),
            unrecognized_fields={AUDIT_FIELD: head} if head else None,
        )
        timestamp = self.sign_online(Timestamp.type, stamp, root.signed)
        raw[Timestamp.type] = to_bytes(timestamp)
        return snapshot, timestamp

    def _sign(
        self,
        role: str,
        metadata: Metadata[Any],
        delegators: Collection[Root | Targets],
    ) -> None:
        """Add the signatures of the manager's keys; they have to suffice where it holds the role.

        Raises:
            FleetError: a role without an owner's key is not signed by a threshold.
        """
        for delegator in delegators:
            self.sign_held(role, metadata, delegator)
            if is_offline(delegator, role):
                continue
            try:
                delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
            except UnsignedMetadataError as error:
                self._keys.load(role)  # says it where the file is missing
                raise FleetError(
                    f"{self._keys.path(role)} is not the key that the repository names for"
                    f" {role!r}: {error}",
                    hint="restore the folder of keys that belongs to this repository",
                    exit_code=ExitCode.AUTH,
                ) from error

    def _roots(self) -> list[bytes]:
        return self._files.roots()


def _meta_file(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])
