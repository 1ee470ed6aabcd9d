"""The agent: one loop that owns all state and reads one queue (ADR 0006).

Threads post events: the link what came over MQTT, the recorder what inference did, the worker and
hooks what became of an update's step, the local API what the owner asks. Nothing but this loop
acts on them. Whatever fails here, inference goes on.
"""

from __future__ import annotations

import logging
import queue
import secrets
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from device_configs.loader import load_profile
from device_configs.service.notify import ProgressWatchdog, Systemd
from edge_agent.api import LocalApi, Request
from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig
from edge_agent.drift.monitor import DriftSettings
from edge_agent.errors import AgentError
from edge_agent.fleet_link import FleetLink
from edge_agent.hooks import DeviceHooks
from edge_agent.identity import Identity
from edge_agent.infer.drift_watch import DriftWatch
from edge_agent.infer.engine import InferenceEngine
from edge_agent.infer.host import Host
from edge_agent.infer.predictions import PredictionsFile
from edge_agent.infer.recorder import (
    Answered,
    DriftFound,
    Recorder,
    SketchClosed,
    TroubleFound,
    WindowClosed,
)
from edge_agent.infer.source import open_source
from edge_agent.link import Inbound, LinkDown, LinkUp, SubscriptionRefused
from edge_agent.local_install import Imported, LocalInstall
from edge_agent.medium_install import MediumCopied, MediumInstall
from edge_agent.memory import limit_arenas
from edge_agent.orders import OrderDesk, Refusal
from edge_agent.remote_config import RemoteConfig
from edge_agent.reports import AGENT_VERSION, Reports, UpdateReports, printable
from edge_agent.settings import own_settings, setters
from edge_agent.statedir import StateDir
from edge_agent.telemetry.drift_windows import merge_windows
from edge_agent.telemetry.spool import Spool
from edge_agent.transfer.beside import Worked
from edge_agent.transfer.block_sources import BlockSources
from edge_agent.transfer.budget import ByteBudget, message_bytes
from edge_agent.transfer.fetch import BundleFetcher, Network
from edge_agent.transfer.http_source import HttpBlock, HttpFailed, HttpSource
from edge_agent.transfer.pace import Pace
from edge_agent.update.arrivals import was_lost
from edge_agent.update.boot import BootMarker
from edge_agent.update.events import Event, Ordered, Withdrawn
from edge_agent.update.executor import Ports
from edge_agent.update.journal import Journal
from edge_agent.update.manager import UpdateManager
from edge_agent.update.order import Order, order_from
from edge_agent.update.readiness import DeviceReadiness, next_opening_ts
from edge_agent.update.slots import Slots
from edge_agent.update.worker import Worker
from edge_contract.errors import WherryError
from edge_contract.messages import Phase
from edge_contract.telemetry import merge_payloads

TICK_S = 0.25
FLUSH_S = 5.0
"""At most so much telemetry is lost to a power cut; status and events are flushed at once."""
SAY_AGAIN_S = 60.0
"""How often the log repeats a trouble that lasts."""
READY_AT_LATEST_S = 60.0
"""A version that does not load must not keep the agent from being told what to do."""
STALLED_S = 10.0
"""A camera or a model that stands still for so long is said so; the watchdog ends it later."""
STOP_UPLOAD_S = 5.0
"""How long a stop waits for the fleet to acknowledge what is left."""
SPOOL_SHARES = {"telemetry": 0.45, "drift": 0.25, "event": 0.2, "status": 0.1}
_KERNEL_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger("edge_agent")


class Agent:
    """Puts the parts together and runs the loop.

    Args:
        config: the configuration file's content.
        clock: the device's clocks.

    Raises:
        AgentError: the state directory is in use, full or not writable; a key or root is unusable.
        ContractError: no such device profile.
    """

    def __init__(self, config: AgentConfig, clock: SystemClock) -> None:
        device = config.device
        self.config = config
        self.clock = clock
        self._events: queue.Queue[Any] = queue.Queue()
        self._stop = threading.Event()
        profile = load_profile(device.hardware)
        path = Path(device.state_dir)
        self._key_trouble = ""
        root = _read_root(Path(config.trust.root))
        self._state_dir = StateDir(path)
        self._marker = BootMarker(path, _KERNEL_BOOT_ID.read_text().strip())
        self._identity = self._read_identity(path / "device-key.pem")
        fingerprint = self._identity.fingerprint if self._identity else ""
        self._spool = Spool.open(
            path / "spool.db",
            cap_bytes=int(config.telemetry.spool_cap_mb * 1e6),
            quotas=SPOOL_SHARES,
            # One a start, not one a kernel boot: counters lost with a damaged spool cannot collide.
            boot_id=secrets.token_hex(8),
            merge={"telemetry": merge_payloads, "drift": merge_windows},
            clock=clock.wall_s,
            ledger_path=path / "spool-ledger.jsonl" if config.telemetry.ledger else None,
        )
        self.desk = OrderDesk(
            path,
            root,
            fleet=device.fleet,
            device=device.id,
            device_key=fingerprint,
            line=device.line,
            hardware=device.hardware,
            clock=clock,
            held=self._held,
        )
        self.reports = Reports(
            device,
            fingerprint=fingerprint,
            public=self._identity.public if self._identity else b"",
            spool=self._spool,
            clock=clock,
            facts=self._facts,
        )
        self.engine = InferenceEngine(open_source(config.source), config.source.rate_hz, clock)
        self._worker = Worker(self._events.put)
        slots = Slots(path, device.hardware)
        boot = _KERNEL_BOOT_ID.read_text().strip()
        self._budget = ByteBudget(
            path / "byte-budget.json", config.link.limit_bytes, clock.monotonic_s, boot
        )
        http = config.transfer.http
        self._sources = BlockSources(
            HttpSource(http, self._events.put, clock.monotonic_s) if http else None,
            lambda ask: self.fleet.ask_blocks(ask),
            lambda reason: self._survived("blobs over HTTP", reason),
        )
        self.fetcher = BundleFetcher(
            path,
            Network(
                ask=self._sources.ask,
                ask_delta=lambda ask: self.fleet.ask_delta(ask),
                held=slots.layers,
                aside=self._worker,
                post=self._events.put,
                pace=Pace(config.transfer.rate_max_kb_s * 1e3),
                room_bytes=self._budget.blob_room_bytes,
                elsewhere=self._sources.leave_http,
            ),
            approved=self.desk.target,
            in_slot=slots.blob,
            line=device.line,
            hardware=device.hardware,
            post=self._events.put,
            monotonic_s=clock.monotonic_s,
        )
        host = Host(self.engine, self._worker, hardware=device.hardware, threads=profile.threads)
        readiness = DeviceReadiness(config.update, path, self.desk.present_s, clock.monotonic_s)
        hooks_dir = Path(config.hooks.directory) if config.hooks.directory else None
        self._hooks = DeviceHooks(hooks_dir, self._events.put, from_bundle=config.hooks.from_bundle)
        (path / "update").mkdir(exist_ok=True)
        self.update = UpdateManager(
            Journal(path / "update" / "journal", clock.wall_s),
            slots,
            Ports(
                fetcher=self.fetcher,
                tester=host,
                host=host,
                hooks=self._hooks,
                sink=UpdateReports(self.reports, self._hear_report),
                aside=self._worker,
            ),
            clock.monotonic_s,
            readiness=readiness,
        )
        self.recorder = Recorder(
            self.engine,
            _predictions(config),
            _drift_watch(config, path),
            window_s=config.telemetry.window_s,
            drift_window_s=config.drift.window_s,
            post=self._events.put,
            clock=clock,
        )
        self.remote = RemoteConfig(
            path / "trust" / "configuration.json",
            own_settings(config),
            setters(self.recorder, self._budget, readiness),
            allowed=config.trust.remote_config,
            accept=self.desk.configuration,
            tell=self._tell,
            changed=lambda: self.fleet.state_changed(),
        )
        self.fleet = FleetLink(
            config,
            self._identity,
            self._spool,
            self.reports,
            self.desk,
            self.fetcher,
            self._budget,
            configure=self.remote.received,
            post=self._events.put,
            clock=clock,
        )
        self.local_install = LocalInstall(
            self.desk,
            self.fetcher,
            self._worker,
            post=self._events.put,
            order=self.update.handle,
            state=lambda: self.update.state,
            health=config.health,
            root=root,
        )
        self.medium_install = MediumInstall(
            device.id,
            self.desk,
            self.fetcher,
            self._worker,
            post=self._events.put,
            order=self.update.handle,
            state=lambda: self.update.state,
            health=config.health,
            status=lambda: (self.reports.topic("status", "update"), self.reports.last_status),
            facts=lambda: self.reports.state(""),
            sign=self._sign,
        )
        self._api = LocalApi(path, self._events.put)
        self._systemd = Systemd()
        self._ready_due_s: float | None = None
        self._watchdog = ProgressWatchdog(self._systemd, lambda: self.engine.turns)
        self._flushed_s = clock.monotonic_s()
        self._told: set[str] = set()
        self._told_wait = ""
        self._survived_last = ""
        self._survived_s = 0.0
        self._handlers: dict[type, Callable[[Any], None]] = {
            LinkUp: self._link_up,
            LinkDown: self._link_down,
            Inbound: self._inbound,
            SubscriptionRefused: self._subscription_refused,
            Answered: self._answered,
            WindowClosed: self.reports.telemetry,
            SketchClosed: self.reports.sketch,
            DriftFound: self._drift_found,
            TroubleFound: self._trouble_found,
            Request: self._request,
            Imported: self.local_install.imported,
            MediumCopied: self.medium_install.copied,
            Worked: lambda event: event.go(),
            HttpBlock: self._http_block,
            HttpFailed: self._http_failed,
        }

    def _read_identity(self, path: Path) -> Identity | None:
        """The device's key; None where it is damaged: it cannot speak then, but it can infer."""
        try:
            return Identity(path)
        except AgentError as error:
            log.error("%s; no fleet until then, inference goes on. %s", error.message, error.hint)
            self._key_trouble = error.message
            return None

    def stop(self) -> None:
        """Ask the loop to end in order; safe from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Run until ``stop``."""
        boot = self._marker.begin()
        log.info("edge-agent %s starts (last run ended: %s)", AGENT_VERSION, boot)
        if boot != "clean":
            self.reports.event("agent-restarted", "warning", f"the last run ended by: {boot}")
        self._tell_findings()
        if self.desk.damage is not None:
            log.error("%s. %s", self.desk.damage.message, self.desk.damage.hint)
            self.reports.event("trust-damaged", "alarm", self.desk.damage.message)
        self.remote.start()
        self.engine.start()
        self.recorder.start()
        self._api.start()
        # Every slot is read through first, and a supervisor must not take that for a hang.
        self._systemd.extend_start(READY_AT_LATEST_S + self.update.slots.read_through_s())
        self.update.start(boot)
        self.fleet.start()
        self._ready_due_s = self.clock.monotonic_s() + READY_AT_LATEST_S
        try:
            while not self._stop.is_set():
                self._take(TICK_S)
                self._tick()
        finally:
            self._end()

    # What happens. ----------------------------------------------------------------------------

    def _take(self, timeout_s: float) -> None:
        """Handle one event, or find that none came."""
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return
        try:
            handler = self._handlers.get(type(event))
            if handler is not None:
                handler(event)
            elif isinstance(event, Event):
                self.update.handle(event)
        except (WherryError, OSError) as error:
            # One bad message, one full disk: said and survived. Inference is on other threads.
            self._survived(type(event).__name__, error)

    def _tick(self) -> None:
        now_s = self.clock.monotonic_s()
        # Each on its own: an order that cannot be written down must not keep a trial from its end.
        for turn in (
            self._obey,
            self._tick_update,
            self.remote.tick,
            self.fleet.tick,
            self._flush,
        ):
            try:
                turn(now_s)
            except (WherryError, OSError) as error:
                self._survived("tick", error)
        self._say_ready(now_s)
        stalled_s = self._watchdog.tick(now_s)
        if stalled_s > STALLED_S:
            self._survived("inference", f"nothing has moved for {stalled_s:.0f} s")

    def _tick_update(self, now_s: float) -> None:
        # What a signature or a synchronised clock proves: a wrong clock ends no order.
        self.update.tick(now_s, self.desk.reference_s())
        if self.update.waits_for != self._told_wait:
            self._told_wait = self.update.waits_for
            log.info("update waits: %s", self._told_wait or "no more")
            self.fleet.state_changed()

    def _flush(self, now_s: float) -> None:
        if now_s - self._flushed_s >= FLUSH_S:
            self._flushed_s = now_s
            self._spool.flush()
            self._tell_findings()
            self._systemd.status(self._sentence())

    def _say_ready(self, now_s: float) -> None:
        """Once the active version is loaded and warm, or there is none."""
        loaded = self.engine.model is not None or not self.update.state.active
        if self._ready_due_s is not None and (loaded or now_s >= self._ready_due_s):
            self._ready_due_s = None
            self._systemd.ready(self._sentence())

    def _sentence(self) -> str:
        """One line for ``systemctl status``."""
        model = self.engine.model
        runs = f"runs {model.manifest.name} {model.version}" if model else "has no model yet"
        link = "online" if self.fleet.up else "offline"
        return f"{runs}, {link}, {self.engine.answered_count} frames answered"

    def _survived(self, where: str, error: Exception | str) -> None:
        """Log what went wrong, but not again with every tick while it lasts."""
        text = f"{where}: {error}"
        now_s = self.clock.monotonic_s()
        if text != self._survived_last or now_s - self._survived_s >= SAY_AGAIN_S:
            log.warning("%s", text)
            self._survived_last, self._survived_s = text, now_s

    def _tell_findings(self) -> None:
        """A spool that loses or refuses data says so, once a kind of trouble."""
        for finding in self._spool.findings:
            if finding.code not in self._told:
                self._told.add(finding.code)
                log.warning("spool: %s", finding.message)
                self.reports.event("spool-finding", "warning", finding.message)

    def _obey(self, now_s: float) -> None:
        # A version that was committed and then lost to damage is ordered anew by its own order.
        state = self.update.state
        order = self.desk.decide(now_s, (-1, -1) if was_lost(state) else state.obeyed)
        if order is None:
            return
        if isinstance(order, Refusal):
            log.warning("refused: %s", order.reason)
            self.reports.refused(order)
            return
        log.info("ordered: %s %s", order.desired.line, order.desired.version)
        self.update.handle(Ordered(order_from(order.desired, self.config.health)))

    def _link_up(self, event: LinkUp) -> None:
        log.info("connected to the broker")
        self.recorder.offline = False
        self.fleet.connected(event.connection_id)

    def _link_down(self, event: LinkDown) -> None:
        if self.fleet.up_before:
            log.warning("%s; inference goes on", event.reason)
        self.recorder.offline = True
        self.fleet.disconnected(event)
        if event.shared:
            self._alarm_once("identity-shared", event.reason)

    def _subscription_refused(self, event: SubscriptionRefused) -> None:
        names = ", ".join(event.filters)
        self.fleet.deaf_reason = f"the broker refuses to subscribe to {names}: {event.reason}"
        self._alarm_once("subscription-refused", self.fleet.deaf_reason)

    def _alarm_once(self, name: str, text: str) -> None:
        """One alarm a kind and start: what repeats with every connection is said once."""
        if name not in self._told:
            self._told.add(name)
            log.error("%s", text)
            self.reports.event(name, "alarm", text)

    def _tell(self, name: str, severity: Literal["info", "warning"], text: str) -> None:
        """One event, for the fleet and for the log."""
        log.log(logging.WARNING if severity == "warning" else logging.INFO, "%s", text)
        self.reports.event(name, severity, text)

    def _inbound(self, event: Inbound) -> None:
        withdrawals_count = self.desk.withdrawals_count
        refusal = self.fleet.inbound(event)
        if refusal is not None:
            self._survived("refused", refusal.reason)
        if self.desk.withdrawals_count > withdrawals_count:
            self.update.handle(Withdrawn("the fleet took its order back"))

    def _sign(self, topic: str, payload: bytes) -> str:
        """The device's signature; without its key there is none, and the fleet takes nothing."""
        return self._identity.sign(topic, payload) if self._identity else ""

    def _http_block(self, event: HttpBlock) -> None:
        self._budget.spend(message_bytes("", event.wire_bytes, qos=0))
        size_bytes = self.fetcher.puller.size_bytes(event.block.digest)
        if self._sources.counts(event, size_bytes):
            self.fetcher.block(event.block, self.clock.monotonic_s())
        else:
            wrong = f"a blob of {event.block.size_bytes} bytes, approved are {size_bytes}"
            self._http_failed(HttpFailed(wrong))

    def _http_failed(self, event: HttpFailed) -> None:
        if self._sources.leave_http(event.reason):
            self.fetcher.reconnected(self.clock.monotonic_s())

    def _answered(self, event: Answered) -> None:
        for infer_ms in event.infer_ms:
            self.update.observe(event.digest, infer_ms, True)
        for _ in range(event.errors_count):
            self.update.observe(event.digest, 0.0, False)

    def _drift_found(self, event: DriftFound) -> None:
        self.reports.drift(
            event.event,
            ts=event.ts,
            model_version=event.model_version,
            sample_hz=self.config.drift.sample_hz,
        )
        log.info("drift: %s", type(event.event).__name__)

    def _trouble_found(self, event: TroubleFound) -> None:
        log.warning("%s: %s", event.name, event.text)
        self.reports.event(event.name, "warning", event.text, model_version=event.model_version)

    def _hear_report(self, order: Order, phase: Phase, reason: str) -> None:
        text = f"{order.line} {order.version} {phase}{f': {reason}' if reason else ''}"
        log.info("update: %s", text)
        self.local_install.hear(order, phase, reason or text)
        self.medium_install.hear(order, phase, reason or text)
        self.fleet.state_changed()

    # What the owner asks. -----------------------------------------------------------------------

    def _request(self, request: Request) -> None:
        what = request.body.get("do")
        try:
            if what == "status":
                request.finish(**self.status())
            elif what in ("hold", "release"):
                (self.update.hold if what == "hold" else self.update.release)()
                request.finish(held=self.update.state.held)
                self.fleet.state_changed()
            elif what == "install":
                self.local_install.begin(request)
            elif what == "apply":
                self.medium_install.begin(request)
            else:
                raise AgentError(
                    f"no request {what!r}; there are status, hold, release, install, apply"
                )
        except WherryError as error:
            request.finish(**error.as_json())
        except OSError as error:
            # A full disk, mostly: the client must hear of it, or it would wait for ever.
            request.finish(**AgentError(f"the state directory refuses: {error}").as_json())

    def status(self) -> dict[str, Any]:
        """All that ``edge-agent status`` shows."""
        stats = self._spool.stats()
        return {
            "fleet": self.config.device.fleet,
            "device": self.config.device.id,
            "hardware": self.config.device.hardware,
            "line": self.config.device.line,
            "agent_version": AGENT_VERSION,
            "device_key": self._identity.fingerprint if self._identity else "",
            **self._facts(),
            "inference": {
                "runs_on": model.session.runs_on if (model := self.engine.model) else "",
                "answered_count": self.engine.answered_count,
                "frames_dropped_count": self.engine.frames_dropped_count,
                "latency_p95_ms": self.recorder.latency_p95_ms,
            },
            "link": {
                "up": self.fleet.up,
                "reason": self._key_trouble or self.fleet.down_reason,
                "refused": self.fleet.refused_reason,
                "deaf": self.fleet.deaf_reason,
                "records_refused_count": self.fleet.records_refused_count,
            },
            "spool": {
                "waiting_records_count": sum(c.records for c in stats.classes.values()),
                "used_bytes": stats.used_bytes,
                "cap_bytes": stats.cap_bytes,
                "dropped_count": stats.dropped_count,
            },
            "update": {
                **self.update.status(),
                "progress_percent": self.fetcher.puller.progress.percent,
                "goodput_bytes_s": self.fetcher.puller.goodput_bytes_s,
                "waits_for_budget": self.fetcher.puller.waits_for_budget,
            },
            "budget": self._budget.status(),
            "configuration": self.remote.status(),
            "last_refusal": self.desk.last_refusal,
        }

    def _facts(self) -> dict[str, Any]:
        """What ``AgentState`` and ``status`` both say about the slots and the update."""
        state, slots = self.update.state, self.update.slots
        fallback = slots.fallback()
        model = self.engine.model
        # An installation from a file counts in the same sequence, so the fleet must hear of it.
        ordered = max(state.seen, (self.desk.desired_epoch, self.desk.desired_seq))
        return {
            "model_version": model.version if model else state.active_version,
            "active_digest": state.active,
            "active_slot": state.active_slot,
            "fallback_digest": fallback.digest if fallback else "",
            "update_phase": state.stage.value,
            "desired_epoch": ordered[0],
            "desired_seq": ordered[1],
            "held": state.held,
            "update_waits_for": printable(self.update.waits_for),
            "update_opens_ts": self._opens_ts(),
            **self.remote.facts(),
        }

    def _opens_ts(self) -> float:
        """When the windows that the update waits for are open next; 0 where it waits for none."""
        if not self.update.waits_for:
            return 0.0
        order = self.update.state.order
        return next_opening_ts(self.config.update, order, self.desk.present_s())

    def _held(self) -> frozenset[str]:
        """Digests in the slots: what may come back below a line's signed floor."""
        kept = (self.update.slots.active(), self.update.slots.fallback())
        return frozenset(slot.digest for slot in kept if slot is not None)

    def _end(self) -> None:
        """Stop in order: inference, what it left to say, the link, the marker of a clean end."""
        log.info("stopping")
        self._systemd.stopping()
        self.engine.stop()
        self.recorder.stop()
        while not self._events.empty():
            self._take(0.0)
        self._spool.flush()
        until_s = self.clock.monotonic_s() + STOP_UPLOAD_S
        self.fleet.tick(self.clock.monotonic_s())
        while self.fleet.uploading and self.clock.monotonic_s() < until_s:
            self._take(0.05)
            self.fleet.tick(self.clock.monotonic_s())
        ending = (self._api.stop, self._hooks.close, self._worker.stop, self.fetcher.cancel)
        link = (self.fleet.stop, self._budget.close, self._sources.stop)
        for close in (*link, *ending, self._spool.close, self._marker.end, self._state_dir.close):
            try:
                close()
            except (WherryError, OSError) as error:
                # A full disk must not make a stop that was asked for look like a crash.
                log.warning("stopping: %s", error)


def run_agent(config: AgentConfig, *, log_level: str) -> None:
    """``edge-agent run``: until SIGTERM or SIGINT."""
    limit_arenas()
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    agent = Agent(config, SystemClock())
    # Inherited as "ignored" from some supervisors; then nobody could tell how a hook ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    agent.run()


def _read_root(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AgentError(
            f"cannot read the trust root {path}: {error.strerror}",
            hint=f"on the fleet's machine: edge-fleet root > {path.name}; then copy it to {path}",
        ) from error


def _predictions(config: AgentConfig) -> PredictionsFile | None:
    path = config.output.predictions
    return PredictionsFile(Path(path)) if path else None


def _drift_watch(config: AgentConfig, state_dir: Path) -> DriftWatch | None:
    drift = config.drift
    if not drift.enabled:
        return None
    settings = DriftSettings(
        sample_hz=drift.sample_hz,
        alarms_per_device_year=drift.alarms_per_device_year,
        commission_samples=drift.commission_samples,
    )
    return DriftWatch(state_dir / "drift", settings)
