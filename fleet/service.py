"""Everything that people and programs can ask of a fleet: one object, used by console and API.

``FleetService`` is thread-safe. Questions read the store on the caller's thread, each in one
transaction of its own; orders are posted to the manager's loop, which is the only writer, and the
call returns when they are committed (or raises what they raised).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from edge_contract import __version__
from edge_contract.errors import ExitCode
from edge_contract.receipt import SignedMessage
from fleet.errors import FleetError
from fleet.manager import configuring, device_views, identities, planning, rollout_views
from fleet.manager.byte_preview import preview_bytes
from fleet.manager.configuration_view import PlannedConfiguration
from fleet.manager.configure_order import ConfigureOrder
from fleet.manager.loop import Manager
from fleet.manager.rollout_order import RolloutOrder, command_line, parse_waves
from fleet.manager.rollouts import RolloutTurn
from fleet.rollout.events import Abort, Event, Exclude, Pause, Promote, Resume, Rollback, Start
from fleet.rollout.state import new_rollout
from fleet.store import devices, journal, records
from fleet.store.rollouts import RolloutRow
from fleet.telemetry import queries
from fleet.views.device import DeviceDetail, DeviceView, Finding
from fleet.views.drift import DriftView
from fleet.views.manager import Changes, HealthView, ReceiptsTaken, VersionView
from fleet.views.rollout import LogLine, PlanView, Pressed, RolloutDetail, RolloutView

__all__ = ["FleetService", "RolloutOrder", "parse_waves"]


class FleetService:
    """The fleet, as console, HTTP API and tests see it.

    Every method may raise ``FleetError``; ``exit_code`` 3 (``ExitCode.NOT_FOUND``) says that a
    device, rollout or version is not known.

    Args:
        manager: started, or about to be.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._store = manager.store
        self._catalogue = manager.catalogue

    # Questions. ---------------------------------------------------------------------------------

    def devices(self) -> list[DeviceView]:
        """Every enrolled device, by id."""
        with self._store.read() as tx:
            return device_views.all_devices(tx)

    def device(self, device: str) -> DeviceDetail:
        """One device with its last 200 telemetry summaries, 100 events, alarms and findings."""
        with self._store.read() as tx:
            return device_views.one_device(tx, device)

    def rollouts(self) -> list[RolloutView]:
        """All rollouts, newest first."""
        with self._store.read() as tx:
            return rollout_views.all_rollouts(tx, self._catalogue, self._manager.clock.wall_s())

    def rollout(self, rollout: str) -> RolloutDetail:
        """One rollout with its devices, failures and log."""
        with self._store.read() as tx:
            now_s = self._manager.clock.wall_s()
            return rollout_views.one_rollout(tx, self._catalogue, rollout, now_s)

    def plan_rollout(self, order: RolloutOrder, *, who: str) -> PlanView:
        """What ``start_rollout`` with the same order would do now. Changes nothing."""
        self._manager.do(self._manager.poll_repository)
        with self._store.read() as tx:
            plan = planning.make_rollout_plan(tx, self._catalogue, order, who=who)
            clockless = planning.clockless(devices.list_devices(tx), plan)
        manager = self._manager
        goodput_bytes_s = manager.blobs.goodput_bytes_s()
        preview = preview_bytes(self._catalogue, manager.deltas, goodput_bytes_s, plan)
        return planning.plan_view(self._catalogue, order, plan, preview, clockless)

    def versions(self) -> list[VersionView]:
        """Published bundles, newest version of each line first."""
        return self._catalogue.versions(Counter(device.digest for device in self.devices()))

    def drift(self, device: str = "") -> list[DriftView]:
        """Drift of every device that has said what it runs (or just of one device)."""
        with self._store.read() as tx:
            rows = devices.list_devices(tx)
            if device:
                rows = [device_views.require_device(tx, device)]
            subjects = [device_views.drift_subject(row) for row in rows]
            return [
                queries.drift_view(tx, subject, self._catalogue.reference(subject.digest))
                for subject in subjects
                if subject.digest
            ]

    def findings(self) -> list[Finding]:
        """What ingest refused, latest first; at most 1,000."""
        with self._store.read() as tx:
            return device_views.findings(tx)

    def log(self, *, kind: str = "", subject: str = "", limit: int = 200) -> list[LogLine]:
        """The newest lines of the persistent log, newest first."""
        with self._store.read() as tx:
            rows = journal.read_log(tx, kind=kind, subject=subject, limit=limit)
            return [rollout_views.log_line(row) for row in rows]

    def health(self) -> HealthView:
        """The manager's own state."""
        manager, facts = self._manager, self._manager.facts
        with self._store.read() as tx:
            stored, again = records.totals(tx)
            refused = journal.count_findings(tx)
            rows = devices.list_devices(tx)
        return HealthView(
            fleet=manager.fleet,
            broker=str(manager.address),
            connected=manager.connected,
            connected_since_s=facts.connected_since_s,
            reconnects_count=facts.reconnects_count,
            started_at_s=facts.started_at_s,
            now_s=manager.clock.wall_s(),
            version=__version__,
            devices_count=len(rows),
            online_count=sum(row.online for row in rows),
            queue_count=manager.queue_count,
            ingest_lag_s=facts.ingest_lag_s,
            records_count=stored,
            duplicates_count=again,
            findings_count=refused,
            blob_bytes_sent=manager.blobs.bytes_sent,
            problem=facts.problem,
            reminders=manager.reminders.due,
            signed_until_s=manager.reminders.signed_until_s,
        )

    def events(self, since: str = "", *, wait_s: float = 0.0) -> Changes:
        """Changes after the cursor ``since`` (of an earlier answer; "" for "from now on").

        Blocks for up to ``wait_s`` when there are none; meant for one thread per SSE stream.
        """
        return self._manager.feed.since(since, wait_s)

    # Orders. ------------------------------------------------------------------------------------

    def start_rollout(self, order: RolloutOrder, *, who: str) -> RolloutView:
        """Plan, save and start. Refused while another rollout of the line is not at rest."""

        def start(turn: RolloutTurn) -> str:
            plan = planning.make_rollout_plan(turn.tx, self._catalogue, order, who=who)
            row = RolloutRow(
                id=plan.rollout_id,
                state=new_rollout(plan),
                health=order.health,
                created_at_s=turn.now_s,
                created_by=who,
                updated_at_s=turn.now_s,
            )
            turn.begin(row, Start(now_s=turn.now_s, who=who))
            return plan.rollout_id

        subject = f"{order.line} {order.version}"
        return self._order(who, "start", subject, command_line(order), start)

    def import_receipts(self, messages: Sequence[SignedMessage]) -> ReceiptsTaken:
        """Take in what devices signed and a medium brought, by the same checks as over MQTT."""
        manager = self._manager

        def counts() -> tuple[int, int, int]:
            with self._store.read() as tx:
                return (*records.totals(tx), journal.count_findings(tx))

        def take() -> ReceiptsTaken:
            before = counts()
            manager.take_in(messages)
            new, known, refused = (a - b for a, b in zip(counts(), before, strict=True))
            return ReceiptsTaken(new_count=new, known_count=known, refused_count=refused)

        return manager.do(take)

    def pause(self, rollout: str, *, who: str, reason: str = "") -> RolloutView:
        """Ask nobody new; devices already asked go on."""
        return self._command(
            rollout,
            "pause",
            who,
            reason,
            lambda now_s: [Pause(now_s=now_s, who=who, reason=reason)],
        )

    def resume(self, rollout: str, *, who: str, acknowledge: bool = False) -> RolloutView:
        """Go on; with ``acknowledge`` failures seen so far count no more."""
        return self._command(
            rollout,
            "resume",
            who,
            "failures acknowledged" if acknowledge else "",
            lambda now_s: [Resume(now_s=now_s, who=who, acknowledge=acknowledge)],
        )

    def abort(self, rollout: str, *, who: str, reason: str) -> RolloutView:
        """Halt for good: ask nobody, withdraw what is not committed. No roll-back."""
        return self._command(
            rollout,
            "abort",
            who,
            reason,
            lambda now_s: [Abort(now_s=now_s, who=who, reason=reason)],
        )

    def rollback(self, rollout: str, *, who: str, reason: str = "") -> RolloutView:
        """Halt, and return every device that is on the new version to what it ran before."""
        return self._command(
            rollout, "rollback", who, reason, lambda now_s: [Rollback(now_s=now_s, who=who)]
        )

    def promote(
        self, rollout: str, *, who: str, everything: bool = False, reason: str = ""
    ) -> RolloutView:
        """Pass the open wave now; with ``everything``, open all that are left."""
        return self._command(
            rollout,
            "promote",
            who,
            reason,
            lambda now_s: [Promote(now_s=now_s, who=who, everything=everything)],
        )

    def exclude(
        self, rollout: str, devices: Sequence[str], *, who: str, reason: str = ""
    ) -> RolloutView:
        """Take devices out of the rollout and out of its counts; all of them or none."""
        return self._command(
            rollout,
            "exclude",
            who,
            f"{', '.join(devices)}{': ' + reason if reason else ''}",
            lambda now_s: [Exclude(now_s=now_s, who=who, device=device) for device in devices],
        )

    def command(self, device: str, name: str, *, who: str) -> None:
        """Send one device a signed command, which counts once and for an hour."""
        self._manager.do(lambda: self._manager.send_command(device, name, who=who))

    def plan_configuration(self, order: ConfigureOrder, *, who: str) -> list[PlannedConfiguration]:
        """What ``configure`` with the same order would do now. Changes nothing."""
        return configuring.plan(self._manager, order)

    def configure(self, order: ConfigureOrder, *, who: str) -> list[PlannedConfiguration]:
        """Want settings of devices, signed; those that are away get it when they come back."""
        return configuring.configure(self._manager, order, who=who)

    def make_codes(
        self, *, who: str, count: int = 1, expires_s: float = 3600.0, device: str = ""
    ) -> list[str]:
        """One-time enrolment codes. Only the caller ever sees them."""
        return identities.make_codes(
            self._manager, who=who, count=count, expires_s=expires_s, device=device
        )

    def revoke_device(self, device: str, *, who: str, reason: str) -> None:
        """Hear a device's key no more."""
        identities.revoke(self._manager, device, who=who, reason=reason)

    def cut_connections(self, *, who: str) -> list[str]:
        """End the connections that revoked devices still have, once the broker has read the
        revocation list; the names that were cut."""
        return identities.cut(self._manager, who=who)

    def replace_device(
        self, device: str, *, who: str, reason: str = "", expires_s: float = 3600.0
    ) -> str:
        """A code that gives new hardware this device's name."""
        return identities.replace(
            self._manager, device, who=who, reason=reason, expires_s=expires_s
        )

    def remove_device(self, device: str, *, who: str, reason: str = "") -> None:
        """Forget a device and clear what is retained for it."""
        identities.remove(self._manager, device, who=who, reason=reason)

    def press(
        self,
        rollout: str,
        command: Pressed,
        *,
        who: str,
        reason: str = "",
        flag: bool = False,
        devices: Sequence[str] = (),
    ) -> RolloutView:
        """One of the commands above by name; ``flag`` is ``acknowledge`` or ``everything``."""
        if command == "pause":
            return self.pause(rollout, who=who, reason=reason)
        if command == "resume":
            return self.resume(rollout, who=who, acknowledge=flag)
        if command == "abort":
            return self.abort(rollout, who=who, reason=reason)
        if command == "rollback":
            return self.rollback(rollout, who=who, reason=reason)
        if command == "promote":
            return self.promote(rollout, who=who, everything=flag, reason=reason)
        if command == "exclude":
            return self.exclude(rollout, devices, who=who, reason=reason)
        raise FleetError(f"no command {command!r}", exit_code=ExitCode.USAGE)

    def _command(
        self,
        rollout: str,
        action: Pressed,
        who: str,
        reason: str,
        events: Callable[[float], Sequence[Event]],
    ) -> RolloutView:
        def step(turn: RolloutTurn) -> str:
            for event in events(turn.now_s):
                turn.command(rollout, event)
            return rollout

        return self._order(who, action, rollout, reason, step)

    def _order(
        self, who: str, action: str, subject: str, reason: str, work: Callable[[RolloutTurn], str]
    ) -> RolloutView:
        def audited(turn: RolloutTurn) -> str:
            rollout = work(turn)
            # Before the commit: what was ordered and cut off is better told than not.
            self._manager.audit.record(who, action, subject, reason)
            journal.add_audit(turn.tx, turn.now_s, who, action, subject, reason, "done")
            return rollout

        def run() -> str:
            # Whoever published a moment ago expects it to be known.
            self._manager.poll_repository()
            try:
                return self._manager.transact(audited)
            except FleetError as error:
                self._manager.audit.record_refusal(who, action, subject, reason, error.message)
                raise

        rollout = self._manager.do(run)
        return self.rollout(rollout).rollout
