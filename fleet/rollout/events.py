"""What can happen to a rollout, and what the engine asks its manager to do about it.

Every event carries ``now_s`` (Unix seconds): the engine reads no clock. Reports and facts carry
``number``, (epoch, seq) of the ``desired`` document that the device was acting on.
"""

from __future__ import annotations

import msgspec

from fleet.errors import FleetError
from fleet.rollout.state import REPORTABLE, Number, Outcome, Phase


class _Event(msgspec.Struct, frozen=True, tag_field="kind", tag=str.lower, kw_only=True):
    now_s: float


class Start(_Event, frozen=True):
    """Open the first wave."""

    who: str


class Tick(_Event, frozen=True):
    """Time has passed; soak and deadlines are judged."""


class DeviceReport(_Event, frozen=True):
    """A step of an update, as a device told it: perhaps repeated, late, or about another digest.

    Raises:
        FleetError: a phase that no device may report (``pending``, ``excluded`` and so on).
    """

    device: str
    phase: Phase
    digest: str
    number: Number
    reason: str = ""

    def __post_init__(self) -> None:
        if self.phase not in REPORTABLE:
            raise FleetError(
                f"report of {self.device}: expected a phase out of "
                f"{', '.join(sorted(REPORTABLE))}, got {str(self.phase.value)!r}"
            )


class DeviceFacts(_Event, frozen=True):
    """The retained state of a device: ``digest`` is *committed*, never one that is on trial.

    ``opens_at_s``: when the maintenance windows that its update waits for open next; 0 for none.
    """

    device: str
    digest: str
    number: Number
    opens_at_s: float = 0.0


class DeviceOnline(_Event, frozen=True):
    """The device is connected."""

    device: str


class DeviceOffline(_Event, frozen=True):
    """The device is gone; that is neither success nor failure."""

    device: str


class Signed(_Event, frozen=True):
    """The manager signed the ``desired`` of the last effect for this device as ``number``.

    From here on the device's reports with a lower number answer something older and are ignored.
    """

    device: str
    number: Number


class Pause(_Event, frozen=True):
    """Ask nobody new; devices already asked go on."""

    who: str
    reason: str = ""


class Restored(_Event, frozen=True):
    """The store comes from a backup: what was under way stands until a person has looked."""

    who: str


class Resume(_Event, frozen=True):
    """Go on; the wave's deadline starts anew.

    With ``acknowledge``, failures seen so far are set aside: they count against no gate again.
    """

    who: str
    acknowledge: bool = False


class Abort(_Event, frozen=True):
    """Halt for good: ask nobody, withdraw from those that have not committed. No roll-back."""

    who: str
    reason: str


class Rollback(_Event, frozen=True):
    """Halt, and return every device that is on the new version to what it ran before."""

    who: str


class Promote(_Event, frozen=True):
    """Pass the open wave without its quorum; with ``everything``, open all waves that are left."""

    who: str
    everything: bool = False


class Exclude(_Event, frozen=True):
    """Take one device out of the rollout and out of its counts."""

    who: str
    device: str


Event = (
    Start
    | Tick
    | DeviceReport
    | DeviceFacts
    | DeviceOnline
    | DeviceOffline
    | Signed
    | Pause
    | Restored
    | Resume
    | Abort
    | Rollback
    | Promote
    | Exclude
)


class _Effect(msgspec.Struct, frozen=True, tag_field="kind", tag=str.lower):
    pass


class AskDevice(_Effect, frozen=True):
    """Sign a ``desired`` for the new version, store it, publish it; then tell ``Signed``."""

    device: str
    digest: str


class ReturnDevice(_Effect, frozen=True):
    """Sign a ``desired`` that points back to ``digest``; then tell ``Signed``."""

    device: str
    digest: str


class WithdrawDevice(_Effect, frozen=True):
    """The device has not committed: its ``desired`` names ``digest`` again ("" for none).

    Then tell ``Signed``.
    """

    device: str
    digest: str


class Log(_Effect, frozen=True):
    """One line for the rollout's event log."""

    text: str


class Finished(_Effect, frozen=True):
    """The rollout came to rest. A late result may still abort a rollout that passed."""

    outcome: Outcome
    sentence: str


Effect = AskDevice | ReturnDevice | WithdrawDevice | Log | Finished
