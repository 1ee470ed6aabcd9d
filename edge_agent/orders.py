"""From metadata and ``desired`` documents to orders that this device obeys. Owned by the loop.

Metadata and orders arrive on different topics, in any order. An order that the metadata at hand
does not cover waits a while for newer metadata before it is refused aloud; whatever the outcome,
what runs keeps running.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge_agent.clock import SystemClock
from edge_agent.errors import DamagedTrustError
from edge_agent.refusal import Refusal, claimed_by
from edge_agent.statedir import doubt_about
from edge_agent.trust.approved import ApprovedLine, ApprovedTarget, HeldMetadata
from edge_agent.trust.commands import (
    UsedNonces,
    accept_command,
    load_nonces,
    save_nonces,
)
from edge_agent.trust.configuration import KeptConfiguration, accept_configuration
from edge_agent.trust.last_accepted import (
    load_last_medium,
    load_last_order,
    save_last_medium,
    save_last_order,
)
from edge_agent.trust.media import AcceptedMedia, LastMedium, verify_media
from edge_agent.trust.order import AcceptedOrder, DeviceFacts, accept_order, refused
from edge_agent.trust.time_floor import TimeFloor, accept_time, load_floor, save_floor
from edge_agent.trust.verifier import TrustStore
from edge_contract.codec import encode_json
from edge_contract.command import Command
from edge_contract.errors import ContractError, TrustError
from edge_contract.media import MediaSet
from edge_contract.metadata import MetadataSet, decode_metadata_set
from edge_contract.signed_time import TimeAsk
from edge_contract.signing import verify_message

GRACE_S = 10.0
"""How long an order waits for the metadata that covers it: retained messages of one connection
arrive within a round trip of each other, a manager that just published within a second."""

TIME_QUESTIONS_MAX = 8
"""A question is asked every minute until one is answered: on a bad link an answer takes longer."""

T = TypeVar("T")

_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")


class OrderDesk:
    """Verifies, in the order of TUF and then Uptane, and remembers across restarts.

    Args:
        state_dir: holds ``trust/``.
        root: bytes of the root that verification begins with; None where ``damage`` is given.
        damage: why nothing may be installed, found before.
        fleet, device, device_key, line, hardware: what this device is.
        clock: the device's clocks.
        held: digests of the bundles in the slots now; they may come back below a line's floor.

    Raises:
        TrustError: no root is known, or the root of another repository is given.
        OSError: the state directory cannot be written.

    Where what was kept is damaged, ``damage`` says so and every order is refused: starting anew
    would forget which orders and metadata are old, and what runs needs none of it.
    """

    def __init__(
        self,
        state_dir: Path,
        root: bytes | None,
        *,
        fleet: str,
        device: str,
        device_key: str,
        line: str,
        hardware: str,
        clock: SystemClock,
        damage: DamagedTrustError | None = None,
        held: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        directory = state_dir / "trust"
        directory.mkdir(parents=True, exist_ok=True)
        self.damage = damage
        self._kept(lambda: _require_own(directory))
        self._store = self._kept(lambda: TrustStore(directory, root=root)) if root else None
        self._floor_path = directory / "time-floor.json"
        self._floor = self._kept(lambda: load_floor(self._floor_path)) or TimeFloor()
        self._last_path = directory / "last-order.json"
        self._last = self._kept(lambda: load_last_order(self._last_path))
        self._nonces_path = directory / "commands.json"
        self._nonces = self._kept(lambda: load_nonces(self._nonces_path)) or UsedNonces({})
        self._media_path = directory / "last-medium.json"
        self._medium = self._kept(lambda: load_last_medium(self._media_path)) or LastMedium()
        self._held = held
        self._time_nonces: deque[str] = deque(maxlen=TIME_QUESTIONS_MAX)
        self._fleet, self._device, self._device_key = fleet, device, device_key
        self._line, self._hardware = line, hardware
        self._clock = clock
        self._approved: ApprovedLine | None = None
        self._waiting: bytes | None = None
        self._waiting_since_s = 0.0
        self._complained = False
        self.withdrawals_count = 0
        """Orders that the fleet took back; the loop cancels what it began of them."""
        self.last_refusal = self.damage.message if self.damage else ""

    @property
    def desired_epoch(self) -> int:
        """Epoch of the last order obeyed."""
        return self._last.epoch if self._last else 0

    @property
    def desired_seq(self) -> int:
        """Sequence of the last order obeyed."""
        return self._last.seq if self._last else 0

    @property
    def held_metadata(self) -> HeldMetadata | None:
        """What is verified and kept; None where what was kept is damaged, and nothing can be."""
        return self._store.held if self._store is not None else None

    def expect_metadata(self, now_s: float) -> None:
        """Metadata was asked for: an order that waits for it is given its time of grace anew."""
        self._waiting_since_s = now_s

    def root(self, data: bytes) -> Refusal | None:
        """A root arrived. None: it is the one after the trusted root, verified and kept."""
        return self._judge(lambda: self._sound_store().update_root(data))

    def metadata(self, data: bytes) -> Refusal | None:
        """A metadata set arrived. None: verified and kept.

        The refusal is for the log; the verified state of before stays in force.
        """
        where = "metadata from the broker"
        return self._judge(lambda: self.approve(decode_metadata_set(data, where=where)))

    def approve(self, metadata: MetadataSet) -> ApprovedLine:
        """Verify a metadata set and keep it.

        Raises:
            TrustError: refused, or for another line than this device's.
            ContractError: malformed.
        """
        if metadata.line != self._line:
            raise TrustError(f"metadata of line {metadata.line!r}, this device runs {self._line!r}")
        self._approved = self._sound_store().verify(metadata, reference_s=self._reference_s())
        return self._approved

    def desired(self, envelope: bytes, now_s: float) -> None:
        """A ``desired`` document arrived; ``decide`` says what becomes of it."""
        self._waiting = envelope
        self._waiting_since_s = now_s
        self._complained = False

    def withdrawn(self) -> None:
        """The fleet took its order back: what waits for metadata is not obeyed any more."""
        self._waiting = None
        self.withdrawals_count += 1

    def decide(
        self, now_s: float, begun: tuple[int, int] | None = None
    ) -> AcceptedOrder | Refusal | None:
        """An order to obey, a refusal to report (once an order), or nothing new.

        Args:
            now_s: monotonic seconds.
            begun: (epoch, seq) of the last order that the update machine has taken on. A repeat
                that is newer was cut off between the two journals, and is handed out again.

        Raises:
            OSError: the disk refuses to remember the order; it is tried again at the next call.
        """
        if self._waiting is None:
            return None
        try:
            self._require_sound()
            order = accept_order(self._waiting, self._current(), self._facts())
        except (TrustError, ContractError) as error:
            self.last_refusal = error.message
            if self._complained or now_s - self._waiting_since_s < GRACE_S:
                return None
            self._complained = True
            return Refusal(error.message, claimed_by(self._waiting))
        self.last_refusal = ""
        if order.repeat:
            self._waiting = None
            lost = begun is not None and begun < (order.last.epoch, order.last.seq)
            return order if lost else None
        # Kept before it is acted upon, so that no older order counts, whatever happens next.
        self._remember(order)
        self._waiting = None
        return order

    def verify_director(self, topic: str, payload: bytes, signature: str) -> None:
        """Check a live message of the manager (acks and the like) against the directors' keys.

        Raises:
            TrustError: not by a director key that is in force for this fleet and line.
        """
        approved = self._current()
        keys = approved.directors.trusted(self._fleet, self._line, self._reference_s())
        for public in keys:
            try:
                verify_message(public, topic, payload, signature)
            except TrustError:
                continue
            return
        raise TrustError(f"{topic}: not signed by a director key in force")

    def ask_time(self) -> bytes:
        """The payload of a question for the time (``ask/time``). Its answer will count, once, until
        ``TIME_QUESTIONS_MAX`` more were asked."""
        nonce = secrets.token_hex(16)
        self._time_nonces.append(nonce)
        return encode_json(TimeAsk(nonce=nonce))

    def time_reply(self, envelope: bytes) -> None:
        """Raise the time floor by a signed answer to one of the last questions.

        Raises:
            ContractError, TrustError: refused; the floor stays.
            OSError: the disk refuses to keep it.
        """
        self._require_sound()
        now_s, nonce = accept_time(envelope, self._time_nonces, self._current(), self._facts())
        self._time_nonces.remove(nonce)
        floor = self._floor.raised_to(now_s)
        save_floor(self._floor_path, floor)
        self._floor = floor

    def command(self, envelope: bytes) -> Command:
        """A command that this device shall carry out now; it will not count again.

        Raises:
            ContractError, TrustError: refused.
            OSError: the disk refuses to keep its nonce.
        """
        self._require_sound()
        accepted = accept_command(envelope, self._current(), self._facts(), self._nonces)
        save_nonces(self._nonces_path, accepted.used)
        self._nonces = accepted.used
        return accepted.command

    def configuration(self, envelope: bytes, last: KeptConfiguration | None) -> KeptConfiguration:
        """A configuration that counts on this device; ``last`` where it is that one again.

        Raises:
            ContractError, TrustError: refused.
        """
        self._require_sound()
        return accept_configuration(envelope, self._current(), self._facts(), last)

    def medium(
        self, media: MediaSet, require_repeatable: Callable[[int], None] | None = None
    ) -> AcceptedMedia:
        """Verify what an offline medium carries beside its bundle, and keep its sequence.

        Args:
            media: ``decode_media_set`` of ``media.json``.
            require_repeatable: asked with its sequence whether the very medium that was accepted
                last may order once more, and raises where not; None: it may not.

        Raises:
            ContractError, TrustError: refused.
            OSError: the disk refuses to keep it.
        """
        self._require_sound()
        accepted = verify_media(media, self._sound_store(), self._facts(), last=self._medium)
        if accepted.repeat:
            number = accepted.last.sequence
            if require_repeatable is None:
                raise refused(f"replay: expected a medium after sequence {number}, got {number}")
            require_repeatable(number)
        floor = self._floor.raised_to(accepted.issued_at)
        save_floor(self._floor_path, floor)
        save_last_medium(self._media_path, accepted.last)
        self._floor, self._medium = floor, accepted.last
        self._approved = accepted.approved
        return accepted

    def next_by_hand(self, seen: tuple[int, int]) -> tuple[int, int]:
        """The (epoch, seq) of an order by hand: above all that this device has taken up, in the
        epoch that offline keys signed with its approval. In a later one the numbers begin again.

        Args:
            seen: the highest that the update machine has taken up.

        Raises:
            TrustError: nothing is approved.
        """
        begun = (self._current().directors.epoch, 0)
        epoch, seq = max(seen, (self.desired_epoch, self.desired_seq), begun)
        return epoch, seq + 1

    def target(self, version: str, digest: str) -> ApprovedTarget:
        """The approved bundle of an order that is being carried out.

        Raises:
            TrustError: it is no longer approved, or the approval has expired.
        """
        self._require_sound()
        return self._current().require(version, digest, held=self._held())

    def _current(self) -> ApprovedLine:
        if self._approved is None:
            self._approved = self._sound_store().approved(reference_s=self._reference_s())
        if self._approved is None:
            raise TrustError(f"no metadata of line {self._line!r} has arrived yet")
        return self._approved

    def _facts(self) -> DeviceFacts:
        return DeviceFacts(
            fleet=self._fleet,
            device=self._device,
            device_key=self._device_key,
            line=self._line,
            hardware=self._hardware,
            reference_s=self._reference_s(),
            last=self._last,
            held=self._held(),
        )

    def reference_s(self) -> float:
        """The time that this device can prove, unix seconds; any thread may ask."""
        return self._reference_s()

    def present_s(self) -> float | None:
        """The present (unix seconds) where the clock is set from the network and contradicts no
        signature; None where the device cannot tell. For hours of the day, never for expiry."""
        local_s = self._clock.wall_s()
        return local_s if _SYNCHRONISED.exists() and local_s >= self._floor.floor_s else None

    def _reference_s(self) -> float:
        return self._floor.reference_s(self._clock.wall_s(), synchronised=_SYNCHRONISED.exists())

    def _remember(self, order: AcceptedOrder) -> None:
        floor = self._floor.raised_to(order.issued_at)
        save_floor(self._floor_path, floor)
        save_last_order(self._last_path, order.last)
        # Only what the disk has taken counts: else the retry would be taken for a repeat.
        self._floor, self._last = floor, order.last

    def _judge(self, verify: Callable[[], object]) -> Refusal | None:
        try:
            verify()
        except (TrustError, ContractError) as error:
            self.last_refusal = error.message
            return Refusal(error.message)
        return None

    def _kept(self, load: Callable[[], T]) -> T | None:
        """What ``load`` finds; None where it is damaged, which ``damage`` then says."""
        try:
            return load()
        except DamagedTrustError as error:
            self.damage = self.damage or error
            return None

    def _sound_store(self) -> TrustStore:
        if self._store is None:
            self._require_sound()
        assert self._store is not None
        return self._store

    def _require_sound(self) -> None:
        """Refuse to install anything while something of what was kept is missing."""
        if self.damage is not None:
            raise self.damage


def _require_own(directory: Path) -> None:
    owners = {os.geteuid(), directory.parent.stat().st_uid}
    try:
        found = [
            doubt_about(path, owners, mend=directory) for path in (directory, *directory.iterdir())
        ]
    except OSError as error:
        raise DamagedTrustError(
            f"cannot look at {directory}: {error.strerror}; new installs stop, what runs keeps"
            " running",
            hint=f"if the disk was damaged and the device is yours, remove {directory}",
        ) from error
    for doubt in found:
        if doubt is not None:
            raise DamagedTrustError(
                f"{doubt.text}; new installs stop, what runs keeps running", hint=doubt.hint
            )
