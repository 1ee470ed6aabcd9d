"""Everything that people and programs can ask of a fleet: one object, used by console and API.

``FleetService`` is thread-safe. Questions read the store on the caller's thread, each in one
transaction of its own; orders are posted to the manager's loop, which is the only writer, and the
call returns when they are committed (or raises what they raised).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from edge_contract.health import HealthSpec
from fleet.manager.views import (
    Changes,
    DeviceDetail,
    DeviceView,
    DriftView,
    Finding,
    HealthView,
    LogLine,
    PlanView,
    Pressed,
    RolloutDetail,
    RolloutView,
    VersionView,
)
from fleet.rollout.gate import Gate


class RolloutOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to roll out, how, and under which gates.

    Attributes:
        line, version: a published bundle.
        shares: cumulative shares of the fleet, rising to 1.0; or
        counts: devices in each wave (the rest forms a last one). With neither: one device first,
            then all. ``parse_waves`` reads both from a text such as "1,100%".
        gate: what a wave must show before the next one is asked.
        health: what a trial must show on the device.
        devices: only these; None for all of the line.
        on_abort: what a gate's abort does with devices that committed: ``halt`` leaves them,
            ``return`` sends them back.
        seed: what the order of the devices is drawn from; the rollout's id when empty.
    """

    line: str
    version: str
    shares: list[float] | None = None
    counts: list[int] | None = None
    gate: Gate = Gate()
    health: HealthSpec = HealthSpec()
    devices: list[str] | None = None
    on_abort: Literal["halt", "return"] = "halt"
    seed: str = ""


class FleetService:
    """The fleet, as console, HTTP API and tests see it.

    Every method may raise ``FleetError``; ``exit_code`` 3 (``ExitCode.NOT_FOUND``) says that a
    device, rollout or version is not known.
    """

    # Questions. ---------------------------------------------------------------------------------

    def devices(self) -> list[DeviceView]:
        """Every enrolled device, by id."""
        raise NotImplementedError

    def device(self, device: str) -> DeviceDetail:
        """One device with its last 200 telemetry summaries, 100 events, alarms and findings."""
        raise NotImplementedError

    def rollouts(self) -> list[RolloutView]:
        """All rollouts, newest first."""
        raise NotImplementedError

    def rollout(self, rollout: str) -> RolloutDetail:
        """One rollout with its devices, failures and log."""
        raise NotImplementedError

    def plan_rollout(self, order: RolloutOrder, *, who: str) -> PlanView:
        """What ``start_rollout`` with the same order would do now. Changes nothing."""
        raise NotImplementedError

    def versions(self) -> list[VersionView]:
        """Published bundles, newest version of each line first."""
        raise NotImplementedError

    def drift(self, device: str = "") -> list[DriftView]:
        """Drift of every device that has sent summaries or alarms (or just of one device)."""
        raise NotImplementedError

    def findings(self) -> list[Finding]:
        """What ingest refused, latest first; at most 1,000."""
        raise NotImplementedError

    def log(self, *, kind: str = "", subject: str = "", limit: int = 200) -> list[LogLine]:
        """The newest lines of the persistent log, newest first."""
        raise NotImplementedError

    def health(self) -> HealthView:
        """The manager's own state."""
        raise NotImplementedError

    def events(self, since: str = "", *, wait_s: float = 0.0) -> Changes:
        """Changes after the cursor ``since`` (of an earlier answer; "" for "from now on").

        Blocks for up to ``wait_s`` when there are none; meant for one thread per SSE stream.
        """
        raise NotImplementedError

    # Orders. ------------------------------------------------------------------------------------

    def start_rollout(self, order: RolloutOrder, *, who: str) -> RolloutView:
        """Plan, save and start. Refused while another rollout of the line is not at rest."""
        raise NotImplementedError

    def pause(self, rollout: str, *, who: str, reason: str = "") -> RolloutView:
        """Ask nobody new; devices already asked go on."""
        raise NotImplementedError

    def resume(self, rollout: str, *, who: str, acknowledge: bool = False) -> RolloutView:
        """Go on; with ``acknowledge`` failures seen so far count no more."""
        raise NotImplementedError

    def abort(self, rollout: str, *, who: str, reason: str) -> RolloutView:
        """Halt for good: ask nobody, withdraw what is not committed. No roll-back."""
        raise NotImplementedError

    def rollback(self, rollout: str, *, who: str, reason: str = "") -> RolloutView:
        """Halt, and return every device that is on the new version to what it ran before."""
        raise NotImplementedError

    def promote(
        self, rollout: str, *, who: str, everything: bool = False, reason: str = ""
    ) -> RolloutView:
        """Pass the open wave now; with ``everything``, open all that are left."""
        raise NotImplementedError

    def exclude(
        self, rollout: str, devices: Sequence[str], *, who: str, reason: str = ""
    ) -> RolloutView:
        """Take devices out of the rollout and out of its counts."""
        raise NotImplementedError

    def press(
        self, rollout: str, command: Pressed, *, who: str, reason: str = "", flag: bool = False
    ) -> RolloutView:
        """One of the commands above by name; ``flag`` is ``acknowledge`` or ``everything``."""
        raise NotImplementedError
