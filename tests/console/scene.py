"""A fleet with a past, written into a real store and a real repository; no broker behind it.

Rollouts went through the real engine, bundles were really published. What devices would have said
over an hour is stored as if they had said it, so that pages have something to show.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from edge_contract.codec import decode_json, encode_json, encode_msgpack
from edge_contract.health import HealthSpec
from edge_contract.intervals import IntervalSet
from edge_contract.messages import AgentState, DriftWindow, Event, UpdateStatus
from edge_contract.telemetry import TelemetrySummary
from fleet.clock import SystemClock
from fleet.manager.broker_address import BrokerAddress
from fleet.manager.configurations import Configurations
from fleet.manager.configure_order import ConfigureOrder
from fleet.manager.director import Director
from fleet.manager.loop import Manager
from fleet.repository.tuf_repository import Repository
from fleet.rollout.engine import step
from fleet.rollout.events import DeviceReport, Start, Tick
from fleet.rollout.gate import Gate
from fleet.rollout.plan import Candidate, make_plan
from fleet.rollout.state import Phase, RolloutState, new_rollout
from fleet.service import FleetService
from fleet.store import Store, devices, journal, open_store, records
from fleet.store.devices import DeviceRow
from fleet.store.records import RecordRow, Stream
from fleet.store.rollouts import RolloutRow, add_rollout
from tests.console.bundles import HARDWARE, LINE, make_bundle, sketch
from tests.device_words import said_state, said_summary

FLEET = "shops"
CAMERAS = tuple(f"cam-{number:02}" for number in range(1, 13))
DARK = "cam-07"
NIGHT = "02:00-05:00"
WINDOW_S = 30.0


class Scene:
    """Store, repository and manager below one directory; ``start`` makes them serve.

    Args:
        directory: empty.
        empty: nothing published, nobody enrolled.
    """

    def __init__(self, directory: Path, *, empty: bool = False) -> None:
        self.clock = SystemClock()
        self.now_s = self.clock.wall_s()
        self.repository = Repository(directory / "state", FLEET, self.clock.wall_s)
        self.repository.initialise()
        self.store: Store = open_store(directory / "state" / "fleet.db", fleet=FLEET)
        self.digests: dict[str, str] = {}
        self.url = ""
        if not empty:
            for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"):
                bundle = make_bundle(directory, version)
                self.digests[version] = self.repository.publish(bundle).digest
            self._tell()
        self.manager = Manager(
            fleet=FLEET,
            store=self.store,
            repository=self.repository,
            address=BrokerAddress("127.0.0.1", 9),
            clock=self.clock,
        )
        self.service = FleetService(self.manager)

    def start(self) -> Scene:
        """Start the manager. Nobody listens where it looks for its broker."""
        self.manager.start()
        return self

    def stop(self) -> None:
        """Stop the manager and close the store."""
        self.manager.stop()
        self.store.close()
        assert self.manager.failure is None

    def hold(self, device: str) -> None:
        """The device's owner says "no updates for now"."""
        with self.store.write() as tx:
            row = devices.get_device(tx, device)
            assert row is not None
            assert row.state is not None
            state = decode_json(row.state, AgentState, what="scene")
            held = encode_json(replace(state, held=True))
            devices.change_device(tx, device, state=held)

    # The past. ----------------------------------------------------------------------------------

    def _tell(self) -> None:
        now_s = self.now_s
        done = self._rollout("1.1.0", now_s - 3000, "ann", counts=[1, 3], digest_from="1.0.0")
        done = self._answers(done, now_s - 2900, "committed", range(3))
        bad = self._rollout("1.2.0", now_s - 1500, "ann", counts=[1, 3], digest_from="1.1.0")
        bad = self._fail(bad, now_s - 1400, "p95 latency 31.4 ms, limit 9.3 ms (3 times 3.1 ms)")
        running = self._rollout(
            "1.3.0", now_s - 240, "bo", counts=[1, 3], digest_from="1.1.0", window=NIGHT
        )
        running = self._answers(running, now_s - 200, "committed", range(1))
        second = running.plan.waves[1]
        running = self._report(running, second[0], "committed", now_s - 60)
        running = self._report(running, second[1], "trial", now_s - 20)
        self.waiting = second[2]
        on_new = {*running.plan.waves[0], second[0]}
        with self.store.write() as tx:
            for state, at_s, who in (
                (done, now_s - 3000, "ann"),
                (bad, now_s - 1500, "ann"),
                (running, now_s - 240, "bo"),
            ):
                add_rollout(tx, _row(state, at_s, who))
            for index, device in enumerate(CAMERAS):
                version = "1.3.0" if device in on_new else "1.1.0"
                if device == "cam-12":
                    continue
                phase = "trial" if device == second[1] else ""
                devices.add_device(tx, self._device(device, index, version, phase))
            devices.add_device(tx, self._stranger("cam-12"))
            for index, device in enumerate(CAMERAS[:-1]):
                version = "1.3.0" if device in on_new else "1.1.0"
                self._records(tx, device, index, version)
            director = Director(FLEET, self.repository.director_key, self.repository.director_epoch)
            wish = ConfigureOrder(devices=[DARK], settings={"link.budget_mb_per_day": 5.0})
            Configurations(director).change(tx, wish, now_s - 900)
            for back_s, kind, subject, severity, text in (
                (3000, "repository", LINE, "info", "1.1.0 published"),
                (2990, "rollout", done.plan.rollout_id, "info", "Started by ann"),
                (2800, "rollout", done.plan.rollout_id, "info", done.sentence),
                (1500, "rollout", bad.plan.rollout_id, "info", "Started by ann"),
                (1380, "rollout", bad.plan.rollout_id, "info", bad.sentence),
                (700, "device", "cam-09", "warning", "connection lost"),
                (410, "drift", DARK, "alarm", "brightness and contrast left the reference"),
                (240, "rollout", running.plan.rollout_id, "info", "Started by bo"),
                (200, "rollout", running.plan.rollout_id, "info", "Wave 1 passed"),
            ):
                journal.add_log(tx, now_s - back_s, kind, subject, text, severity)  # type: ignore[arg-type]
            journal.add_finding(
                tx, device="cam-03", kind="signature", cls="telemetry",
                detail="signature does not verify with the pinned key", now_s=now_s - 900,
            )  # fmt: skip
        self.running, self.aborted, self.completed = (
            state.plan.rollout_id for state in (running, bad, done)
        )

    def _rollout(
        self,
        version: str,
        at_s: float,
        who: str,
        *,
        counts: list[int],
        digest_from: str,
        window: str = "",
    ) -> RolloutState:
        candidates = [
            Candidate(
                device,
                HARDWARE[index % 4 == 3],
                LINE,
                self.digests[digest_from],
                online=device != "cam-09",
                held=device == "cam-11",
            )
            for index, device in enumerate(CAMERAS[:-1])
        ]
        plan = make_plan(
            f"{LINE}-{version}",
            LINE,
            version,
            self.digests[version],
            candidates,
            hardware=HARDWARE,
            counts=counts,
            gate=Gate(quorum_share=0.6, soak_s=0.0),
            planned_by=who,
            window=window,
        )
        return step(new_rollout(plan), Start(now_s=at_s, who=who))[0]

    def _answers(self, state: RolloutState, at_s: float, phase: str, waves: range) -> RolloutState:
        for wave in waves:
            for device in state.plan.waves[wave] if wave < len(state.plan.waves) else ():
                state = self._report(state, device, phase, at_s + wave)
            state = step(state, Tick(now_s=at_s + wave))[0]
        return state

    def _fail(self, state: RolloutState, at_s: float, reason: str) -> RolloutState:
        device = state.plan.waves[0][0]
        state = self._report(state, device, "trial", at_s)
        return self._report(state, device, "rolled_back", at_s + 9, reason)

    def _report(
        self, state: RolloutState, device: str, phase: str, at_s: float, reason: str = ""
    ) -> RolloutState:
        record = state.devices[device]
        report = DeviceReport(
            now_s=at_s,
            device=device,
            phase=Phase(phase),
            digest=state.plan.digest_to,
            number=max(record.number, record.floor),
            reason=reason,
        )
        return step(state, report)[0]

    def _device(self, device: str, index: int, version: str, phase: str) -> DeviceRow:
        online = device != "cam-09"
        seen_s = self.now_s - (700 if not online else 2 + index)
        fallback = "1.1.0" if version == "1.3.0" else "1.0.0"
        state = said_state(
            ts=seen_s + 0.2,
            seq=9,
            boot_id=f"boot-{device}",
            model_version=version,
            connection_id=f"c-{device}",
            hardware=HARDWARE[index % 4 == 3],
            device_key="ab" * 16,
            line=LINE,
            active_digest=self.digests[version],
            fallback_digest=self.digests[fallback],
            active_slot="b" if version == "1.3.0" else "a",
            update_phase=phase,
            desired_seq=3,
            held=device == "cam-11",
            spool_used_bytes=48_000 + 7_100 * index,
            update_waits_for=f"the order's window is {NIGHT} UTC" * (device == self.waiting),
            settings={"link.budget_mb_per_day": 1.0, "log.level": "info"},
            settings_limited=["link.budget_mb_per_day"] if device == DARK else [],
            config_refused="it is for another device" if device == DARK else "",
        )
        return DeviceRow(
            device=device,
            public_key=f"{index + 1:064x}",
            hardware=state.hardware,
            line=LINE,
            agent_version="0.1.0",
            enrolled_at_s=self.now_s - 86_400 * 9,
            last_seen_at_s=seen_s,
            online=online,
            connection_id=state.connection_id,
            connection_boot_id=state.boot_id,
            desired_seq=3,
            reported_seq=3,
            state=encode_json(state),
            state_at_s=seen_s,
            telemetry=encode_json(self._summary(device, index, version, 120, seen_s)),
            telemetry_ts=seen_s,
        )

    def _stranger(self, device: str) -> DeviceRow:
        return DeviceRow(
            device=device,
            public_key="f" * 64,
            hardware=HARDWARE[0],
            line=LINE,
            agent_version="0.1.0",
            enrolled_at_s=self.now_s - 90,
            last_seen_at_s=self.now_s - 90,
        )

    def _summary(
        self, device: str, index: int, version: str, seq: int, ts: float
    ) -> TelemetrySummary:
        base_ms = (2.6 if index % 4 == 3 else 7.8) + (0.9 if version == "1.3.0" else 0)
        wave_ms = 0.5 * math.sin(seq / 9 + index)
        return said_summary(
            [max(0.2, base_ms + wave_ms + 0.12 * nth) for nth in range(20)],
            ts=ts,
            seq=seq,
            boot_id=f"boot-{device}",
            model_version=version,
            window_s=WINDOW_S,
            frames_count=int(WINDOW_S * (15 + math.sin(seq / 5))),
            memory_rss_mb=74.0,
            spool_used_bytes=48_000,
        )

    def _records(self, tx: Any, device: str, index: int, version: str) -> None:
        rows = []
        for seq in range(1, 121):
            ts = self.now_s - (120 - seq) * WINDOW_S
            summary = self._summary(device, index, "1.1.0" if seq < 112 else version, seq, ts)
            rows.append(
                self._record(device, "telemetry", "summary", seq, ts, version, encode_json(summary))
            )
        n = 60 if device == "cam-10" else 1000
        for seq in range(1, 3):
            ts = self.now_s - (3 - seq) * 60
            window = DriftWindow(
                schema=1,
                ts=ts,
                seq_first=seq,
                seq=seq,
                boot_id=f"boot-{device}",
                model_version=version,
                window_s=60.0,
                sketch=sketch(index, n // 2, dark=device == DARK).encode(),
            )
            rows.append(
                self._record(device, "drift", "summary", seq, ts, version, encode_msgpack(window))
            )
        for seq, (back_s, phase, to) in enumerate(_STEPS[version], 1):
            status = UpdateStatus(
                ts=self.now_s - back_s,
                seq=seq,
                boot_id=f"boot-{device}",
                model_version=version,
                rollout=f"{LINE}-{to}",
                desired_seq=2,
                digest=self.digests[to],
                version=to,
                phase=phase,  # type: ignore[arg-type]
            )
            rows.append(
                self._record(
                    device, "status", "update", seq, status.ts, version, encode_json(status)
                )
            )
        if device == DARK:
            event = Event(
                ts=self.now_s - 410,
                seq=1,
                boot_id=f"boot-{device}",
                model_version=version,
                name="drift",
                severity="alarm",
                text="brightness and contrast left the commissioned reference",
                detail={"onset_ts": self.now_s - 436, "features": ["brightness", "contrast"]},
            )
            rows.append(
                self._record(
                    device, "event", "drift", 1, event.ts, version, encode_json(event), "alarm"
                )
            )
        records.add_records(tx, rows)
        for cls in ("telemetry", "drift", "status"):
            last = max(row.seq for row in rows if row.cls == cls)
            stream = Stream(device, f"boot-{device}", cls)
            records.save_ranges(tx, stream, IntervalSet([(1, last)]), new=True)
        records.count_duplicates(tx, device, "telemetry", 2, self.now_s)

    def _record(
        self, device: str, cls: str, name: str, seq: int, ts: float, version: str,
        payload: bytes, severity: str = "",
    ) -> RecordRow:  # fmt: skip
        return RecordRow(
            device=device,
            boot_id=f"boot-{device}",
            cls=cls,
            seq=seq,
            seq_first=seq,
            name=name,
            severity=severity,
            ts=ts,
            received_at_s=ts + 0.3,
            model_version=version,
            payload=payload,
        )


_UPDATE = ("accepted", "downloading", "staged", "self_test", "trial", "committed")
_STEPS = {
    "1.1.0": [(2950 - 10 * n, phase, "1.1.0") for n, phase in enumerate(_UPDATE)],
    "1.3.0": [(2950 - 10 * n, phase, "1.1.0") for n, phase in enumerate(_UPDATE)]
    + [(180 - 10 * n, phase, "1.3.0") for n, phase in enumerate(_UPDATE)],
}


def _row(state: RolloutState, at_s: float, who: str) -> RolloutRow:
    return RolloutRow(
        id=state.plan.rollout_id,
        state=state,
        health=HealthSpec(),
        created_at_s=at_s,
        created_by=who,
        updated_at_s=state.now_s,
    )
