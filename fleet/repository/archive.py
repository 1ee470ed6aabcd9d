"""The signed state of one fleet on disk, and the one way to change it: propose, sign, commit.

``propose`` commits at once where the manager holds enough keys (development keys do), and opens a
signing event where people hold them. Both ways go through the same draft.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edge_contract.codec import DOCUMENT_LIMIT_BYTES, encode_json
from edge_contract.desired import DIRECTORS_TARGET, DirectorKey, Directors, decode_directors
from edge_contract.errors import ExitCode, TrustError
from edge_contract.metadata import OFFLINE_ROLES, newest_roots
from edge_contract.signing import ed25519_key, public_bytes
from fleet.errors import FleetError
from fleet.repository.audit_log import AuditLog
from fleet.repository.blob_store import BlobStore
from fleet.repository.edition_signer import Draft, EditionSigner, Lifetimes, Missing
from fleet.repository.keys import ManagerKeys
from fleet.repository.role_files import Edition, RoleFiles
from fleet.repository.signing_event import (
    OpenEvents,
    Purpose,
    SigningEvent,
    event_id,
    with_draft,
)

_log = logging.getLogger(__name__)
DIRECTOR = "director"
AUDIT = "audit"


@dataclass(frozen=True)
class Outcome:
    """What became of a proposal.

    event: the open event, or None when it was committed.
    path: the event's file.
    missing: the signatures that it waits for.
    """

    event: SigningEvent | None = None
    path: Path | None = None
    missing: tuple[Missing, ...] = ()

    @property
    def committed(self) -> bool:
        """Whether it counts already."""
        return self.event is None


COMMITTED = Outcome()


class Archive:
    """Keys, signed files, blobs and open events of one fleet, below one directory.

    Any number of processes may open it; those that sign wait for one another (``exclusive``).

    Args:
        state_dir: the manager's state.
        fleet: the only fleet that its directors may give orders in.
        clock: unix seconds.
        lifetimes: how long signatures last.
    """

    def __init__(
        self, state_dir: Path, fleet: str, clock: Callable[[], float], lifetimes: Lifetimes
    ) -> None:
        self.state_dir = state_dir
        self.fleet = fleet
        self.clock = clock
        self.lifetimes = lifetimes
        self.files = RoleFiles(state_dir / "tuf")
        self.blobs = BlobStore(state_dir / "blobs")
        self.keys = ManagerKeys(state_dir / "keys")
        self.events = OpenEvents(state_dir / "signing")
        self.audit = AuditLog(state_dir / "audit.jsonl")
        self.signer = EditionSigner(self.files, self.keys, clock, lifetimes, self.audit.head)

    # --- beginning -------------------------------------------------------------------------

    def initialise(self) -> bool:
        """Make keys and the first, empty edition, if there is none yet; hold ``exclusive``.

        Raises:
            FleetError: the repository belongs to another fleet, or a key is missing.
            TrustError: its metadata is not what was signed.
        """
        if self.files.exists():
            self._check_fleet(self.files.read())
            return False
        for role in (Root.type, Targets.type, Snapshot.type, Timestamp.type, DIRECTOR, AUDIT):
            self.keys.load_or_make(role)
        if not self.files.roots():
            self.signer.write_first_root()
        targets = Targets(delegations=Delegations(keys={}, roles={}))
        for role in OFFLINE_ROLES:
            self.delegate(targets, role, [])
            key = ed25519_key(public_bytes(self.keys.load_or_make(role)))
            targets.add_key(key, role)
        directors = Directors(
            keys=[self.director_entry(public_bytes(self.keys.load(DIRECTOR)).hex())],
            audit_keys=[public_bytes(self.keys.load(AUDIT)).hex()],
        )
        draft = self.signer.draft(
            None, {Targets.type: targets}, self.name_directors(targets, directors)
        )
        self.signer.commit(None, draft)
        _log.warning("%s", self.keys.warning)
        return True

    # --- the directors ---------------------------------------------------------------------

    def directors(self, edition: Edition) -> Directors:
        """Who may give orders by this edition."""
        return decode_directors(self.directors_bytes(edition))

    def directors_bytes(self, edition: Edition) -> bytes:
        """``directors.json`` of an edition."""
        target = edition.targets.signed.targets[DIRECTORS_TARGET]
        return self.blobs.read(target_digest(target), DOCUMENT_LIMIT_BYTES)

    def director_entry(self, public: str) -> DirectorKey:
        """A director key for this fleet and every line, with a fresh expiry."""
        until = float(int(self.clock() + self.lifetimes.director_s))
        return DirectorKey(public=public, fleets=[self.fleet], lines=["*"], expires=until)

    def name_directors(self, targets: Targets, directors: Directors) -> bytes:
        """Put ``directors.json`` among the top-level targets; returns its bytes."""
        data = encode_json(directors)
        decode_directors(data)
        self.blobs.add_bytes(data)
        targets.targets[DIRECTORS_TARGET] = TargetFile.from_data(DIRECTORS_TARGET, data, ["sha256"])
        return data

    def delegate(self, targets: Targets, role: str, paths: list[str]) -> None:
        """Add a terminating delegation without keys.

        A role must have paths; one that approves nothing gets its own name.
        """
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        targets.delegations.roles[role] = DelegatedRole(
            role, [], 1, terminating=True, paths=paths or [role]
        )

    # --- changing --------------------------------------------------------------------------

    def propose(
        self,
        purpose: Purpose,
        changed: Mapping[str, Root | Targets],
        directors: bytes,
        *,
        who: str,
        reason: str,
        leap: int = 0,
    ) -> Outcome:
        """Sign and commit a change, or open a signing event for it. Hold ``exclusive``.

        Args:
            purpose: what kind of change it is.
            changed: role -> its new content.
            directors: the bytes of ``directors.json`` afterwards.
            who: asks for it.
            reason: what for, in words; goes into the audit log and to the signers.
            leap: how much further than the next version to go.

        Raises:
            FleetError: an open event changes the same role, or a key is missing.
        """
        base = self.files.read()  # the caller has changed its own copy
        self.settle_events(base)
        self.events.require_free(set(changed))
        before = {role: base.raw[role] for role in {Targets.type, *changed} if role in base.raw}
        draft = self.signer.draft(base, changed, directors, leap=leap)
        lacking = self.signer.missing(draft, base)
        if not lacking:
            self.record(who, purpose, event_id(draft), reason)
            self.signer.commit(base, draft)
            return COMMITTED
        self.signer.check_sizes(base, draft, lacking)
        event = SigningEvent(
            id=event_id(draft),
            fleet=self.fleet,
            purpose=purpose,
            asked_by=who,
            asked_at=self.clock(),
            reason=reason,
            roots=newest_roots(base.roots),
            base={role: data for role, data in before.items() if role != Root.type},
            base_directors=self.directors_bytes(base),
            proposed={},
            directors=directors,
            leap=leap,
        )
        event = with_draft(event, draft)
        self.record(who, "propose", event.id, f"{purpose}: {reason}")
        return Outcome(event, self.events.keep(event), tuple(lacking))

    def submit(self, given: SigningEvent, *, who: str) -> Outcome:
        """Take signatures over from a signer's file; commit when the threshold is met.

        Raises:
            FleetError: no such event is open, or nothing in the file is new.
            TrustError: the file proposes something else than the event that was opened.
        """
        base = self.files.read()
        self.settle_events(base)
        event = self.events.find(given.id)
        draft, signed = event.draft(), given.draft()
        if set(draft.roles) != set(signed.roles) or event.directors != given.directors:
            raise _changed(given)
        for role, metadata in draft.roles.items():
            if metadata.signed_bytes != signed.roles[role].signed_bytes:
                raise _changed(given)
            self._merge(draft, base, role, signed)
        event = with_draft(event, draft)
        lacking = self.signer.missing(draft, base)
        signers = sorted({keyid for item in draft.roles.values() for keyid in item.signatures})
        if lacking:
            path = self.events.keep(event)
            return Outcome(event, path, tuple(lacking))
        by = ", ".join(keyid[:12] for keyid in signers)
        self.record(who, event.purpose, event.id, f"{event.reason}; signed by {by}")
        self.blobs.add_bytes(draft.directors)
        self.signer.commit(base, draft)
        self.events.close(event.id)
        return COMMITTED

    def cancel(self, name: str, *, who: str) -> None:
        """Drop an open event.

        Raises:
            FleetError: none has this id.
        """
        damaged = self.events.is_damaged(name)
        reason = "its file is damaged" if damaged else self.events.find(name).reason
        self.record(who, "cancel", name, reason)
        self.events.close(name)
        self.files.drop_roots_after(len(self.files.read().roots))

    def settle_events(self, base: Edition) -> None:
        """Forget events that were committed just before a crash, or whose base has moved on."""
        for event in self.events.all():
            for role, metadata in event.draft().roles.items():
                current = base.role(role)
                if current is not None and metadata.signed.version <= current.signed.version:
                    self.events.close(event.id)
                    break

    def record(self, who: str, action: str, subject: str, detail: str) -> None:
        """Append to the audit log."""
        newest = self.directors(self.files.read()).audit_keys[-1:]
        held = self.keys.held(AUDIT, [ed25519_key(bytes.fromhex(key)).keyid for key in newest])
        if not held:
            raise FleetError(
                "the manager has no audit key that the signed directors list names",
                hint="restore keys/ from a backup (docs/how-to/restored-backup.md)",
                exit_code=ExitCode.NOT_FOUND,
            )
        self.audit.append(held[0], self.clock(), who, action, subject, detail)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One signer at a time, over all processes; the lock goes with the process that held it."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        with (self.state_dir / "repository.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info("another process is signing in %s; waiting for it", self.state_dir)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _merge(self, draft: Draft, base: Edition, role: str, signed: Draft) -> None:
        """Take over the signatures that verify; one that does not is no reason to lose the rest."""
        metadata = draft.roles[role]
        for delegator in self.signer.delegators(draft, base, role):
            result = delegator.get_verification_result(
                role, metadata.signed_bytes, signed.roles[role].signatures
            )
            for keyid in result.signed:
                metadata.signatures[keyid] = signed.roles[role].signatures[keyid]

    def _check_fleet(self, edition: Edition) -> None:
        fleets = {fleet for key in self.directors(edition).keys for fleet in key.fleets}
        if self.fleet not in fleets:
            raise FleetError(
                f"{self.state_dir} is the repository of fleet {sorted(fleets)}, not of"
                f" {self.fleet!r}",
                hint="use another state directory, or the fleet's own name",
                exit_code=ExitCode.USAGE,
            )


def target_digest(target: TargetFile) -> str:
    """The digest of a target, as the contract writes it."""
    return "sha256:" + target.hashes["sha256"]


def _changed(event: SigningEvent) -> TrustError:
    return TrustError(
        f"signing event {event.id!r}: the file proposes something else than what was asked for",
        hint="take the event's file from the manager again: edge-fleet event list",
        docs="explanation/trust.md",
    )
