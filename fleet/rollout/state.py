"""A rollout as data: frozen, without behaviour, and the same after a trip through JSON."""

from __future__ import annotations

from enum import Enum
from typing import Literal

import msgspec

from fleet.rollout.plan import RolloutPlan


class Status(str, Enum):
    """Where a rollout stands. The moves between these are ``table.MOVES``."""

    DRAFT = "draft"
    RUNNING = "running"
    PAUSED = "paused"
    ABORTED = "aborted"
    COMPLETED = "completed"
    ROLLING_BACK = "rolling_back"
    RETURN_PAUSED = "return_paused"
    """On the way back at a backup that was restored since."""
    ROLLED_BACK = "rolled_back"


AT_REST = frozenset({Status.ABORTED, Status.COMPLETED, Status.ROLLED_BACK})
"""A new rollout of the line may start; late reports still move these (see ``table.MOVES``)."""


class Phase(str, Enum):
    """Where a device stands in one rollout. It moves by ``RANK`` and ``table.STEPS``.

    What a device reports has the words of ``edge_contract.messages.Phase``.
    """

    PENDING = "pending"
    ASKED = "asked"
    HELD = "held"
    """Its owner holds updates: like offline, neither success nor failure."""
    ACCEPTED = "accepted"
    DOWNLOADING = "downloading"
    STAGED = "staged"
    SELF_TEST = "self_test"
    """The golden vectors, in the slot that is not in use."""
    TRIAL = "trial"
    COMMITTED = "committed"
    """The device runs the new version."""
    REFUSED = "refused"
    """Not even begun: trust, line or hardware."""
    FAILED = "failed"
    """The new version never ran; the old one does."""
    ROLLED_BACK = "rolled_back"
    """The new version ran and the device left it by itself."""
    WITHDRAWN = "withdrawn"
    """Asked, not committed, and the question was taken back."""
    RETURNING = "returning"
    """An operator, or an abort with ``on_abort=return``, sent it back."""
    RETURNED = "returned"
    RETURN_FAILED = "return_failed"
    EXCLUDED = "excluded"


RANK: dict[Phase, int] = {
    Phase.ASKED: 1,
    Phase.HELD: 2,
    Phase.ACCEPTED: 3,
    Phase.DOWNLOADING: 4,
    Phase.STAGED: 5,
    Phase.SELF_TEST: 6,
    Phase.TRIAL: 7,
    Phase.COMMITTED: 8,
    Phase.REFUSED: 9,
    Phase.FAILED: 10,
    Phase.ROLLED_BACK: 11,
}
"""A device that was asked stands at the highest of these that it has reported, so the order and
the number of its reports do not matter. Bad news outranks good: whoever commits and then leaves
the version has left it, whichever report came first."""

REPORTABLE = frozenset(RANK) - {Phase.ASKED}
IN_FLIGHT = frozenset(phase for phase, rank in RANK.items() if rank < RANK[Phase.COMMITTED])
BAD = frozenset({Phase.REFUSED, Phase.FAILED, Phase.ROLLED_BACK})


Number = tuple[int, int]
"""(epoch, seq) of a ``desired``. In a new epoch ``seq`` may begin again."""


class DeviceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One device in one rollout.

    Attributes:
        wave: index of its wave.
        digest_from: the digest to return to, "" when it had none.
        digest: the digest that it is known to have committed.
        number: the highest number of a ``desired`` seen for it.
        floor: reports with a lower number answer something older than the last effect.
        reached: how far it came before it failed or succeeded.
        committed_at_s: when it was first known to have committed; its soak counts from here.
        set_aside: it failed, and an operator resumed knowing that.
        opens_at_s: when the window that it said last that it waits for opens, or did; 0 for none.
    """

    wave: int
    digest_from: str
    digest: str
    number: Number
    floor: Number
    online: bool
    phase: Phase = Phase.PENDING
    reached: Phase = Phase.PENDING
    reason: str = ""
    committed_at_s: float | None = None
    set_aside: bool = False
    opens_at_s: float = 0.0


class Tally(msgspec.Struct, frozen=True):
    """How many devices of a wave stand where. Every device is in exactly one of these counts."""

    waiting: int = 0
    in_flight: int = 0
    offline: int = 0
    """Asked, without a result, and not connected: neither success nor failure."""
    held: int = 0
    """Asked and connected, but its owner holds updates; likewise neither."""
    committed: int = 0
    failed: int = 0
    set_aside: int = 0
    returning: int = 0
    out: int = 0
    """Excluded, withdrawn or returned: no part of any gate."""

    @property
    def members(self) -> int:
        """Devices that the wave's quorum is counted over."""
        return self.waiting + self.may_answer + self.committed + self.failed + self.set_aside

    @property
    def may_answer(self) -> int:
        """Devices that were asked and have no result yet."""
        return self.in_flight + self.offline + self.held

    @property
    def answered(self) -> int:
        """Devices with a result that counts."""
        return self.committed + self.failed


Bucket = Literal[
    "waiting",
    "in_flight",
    "offline",
    "held",
    "committed",
    "failed",
    "set_aside",
    "returning",
    "out",
]


def bucket_of(record: DeviceRecord) -> Bucket:
    """The one count of ``Tally`` that this device belongs to."""
    phase = record.phase
    if phase is Phase.PENDING:
        return "waiting"
    if phase in IN_FLIGHT:
        if not record.online:
            return "offline"
        return "held" if phase is Phase.HELD else "in_flight"
    if phase is Phase.COMMITTED:
        return "committed"
    if phase in BAD:
        return "set_aside" if record.set_aside else "failed"
    return "returning" if phase is Phase.RETURNING else "out"


Outcome = Literal["", "pass", "fail", "insufficient", "rolled_back"]


class RolloutState(msgspec.Struct, frozen=True):
    """All that the engine knows.

    Attributes:
        wave: index of the open wave, -1 before the start. Waves above it were never asked.
        wave_since_s: when the open wave's deadline (or that of the way back) began to count.
        outcome: ``insufficient`` belongs to a pause that waits for an operator.
        sentence: why it stands where it stands, for people.
    """

    plan: RolloutPlan
    status: Status
    devices: dict[str, DeviceRecord]
    tallies: tuple[Tally, ...]
    wave: int = -1
    wave_since_s: float = 0.0
    now_s: float = 0.0
    outcome: Outcome = ""
    sentence: str = ""


def new_rollout(plan: RolloutPlan) -> RolloutState:
    """The draft of a plan: nobody has been asked."""
    wave_of = {name: i for i, wave in enumerate(plan.waves) for name in wave}
    return RolloutState(
        plan=plan,
        status=Status.DRAFT,
        devices={
            device.device: DeviceRecord(
                wave=wave_of[device.device],
                digest_from=device.digest_from,
                digest=device.digest_from,
                number=(device.desired_epoch, device.desired_seq),
                floor=(device.desired_epoch, device.desired_seq + 1),
                online=device.online,
            )
            for device in plan.devices
        },
        tallies=tuple(Tally(waiting=len(wave)) for wave in plan.waves),
        sentence="Draft: nobody has been asked",
    )


def encode_state(state: RolloutState) -> bytes:
    """The state as JSON, for the store."""
    return msgspec.json.encode(state)


def decode_state(data: bytes) -> RolloutState:
    """The state that ``encode_state`` wrote.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: the bytes are no rollout state.
    """
    return msgspec.json.decode(data, type=RolloutState)
