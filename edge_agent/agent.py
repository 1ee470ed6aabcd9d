"""The agent: one loop that owns all state and reads one queue (ADR 0006).

Threads post events: the link what came over MQTT, the recorder what inference did, the worker and
hooks what became of an update's step, the local API what the owner asks. Nothing but this loop
acts on them. Whatever fails here, inference goes on.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
from collections.abc import Callable
from typing import Any

from device_configs.service.notify import ProgressWatchdog
from edge_agent.api import Request
from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError
from edge_agent.infer.recorder import (
    Answered,
    DriftFound,
    SketchClosed,
    TroubleFound,
    WindowClosed,
)
from edge_agent.link import Inbound, LinkDown, LinkUp, SubscriptionRefused
from edge_agent.local_install import Imported
from edge_agent.medium_install import MediumCopied
from edge_agent.memory import limit_arenas
from edge_agent.parts import Parts
from edge_agent.refusal import Refusal
from edge_agent.reports import AGENT_VERSION
from edge_agent.status import full_status, sentence
from edge_agent.transfer.beside import Worked
from edge_agent.transfer.budget import message_bytes
from edge_agent.transfer.http_source import HttpBlock, HttpFailed
from edge_agent.update.arrivals import was_lost
from edge_agent.update.events import Event, Ordered, Withdrawn
from edge_agent.update.order import Order, order_from
from edge_contract.errors import WherryError
from edge_contract.messages import Phase

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

log = logging.getLogger("edge_agent")


class Agent:
    """Runs the loop over its parts.

    Args:
        config: the configuration file's content.
        clock: the device's clocks.

    Raises:
        AgentError: the state directory is in use, full or not writable; a key or root is unusable.
        ContractError: no such device profile.
    """

    def __init__(self, config: AgentConfig, clock: SystemClock) -> None:
        self.config = config
        self.clock = clock
        self._events: queue.Queue[Any] = queue.Queue()
        self._stop = threading.Event()
        self._ready_due_s: float | None = None
        self._flushed_s = clock.monotonic_s()
        self._told: set[str] = set()
        self._told_wait = ""
        self._survived_last = ""
        self._survived_s = 0.0
        self.parts = parts = Parts(
            config, clock, post=self._events.put, hear=self._hear_report, survived=self._survived
        )
        self.desk = parts.desk
        self.engine = parts.engine
        self.fetcher = parts.fetcher
        self.fleet = parts.fleet
        self.recorder = parts.recorder
        self.remote = parts.remote
        self.reports = parts.reports
        self.update = parts.update
        self._watchdog = ProgressWatchdog(
            parts.systemd, lambda: (*self.engine.turns, parts.worker.turns)
        )
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
            Imported: self.parts.local_install.imported,
            MediumCopied: self.parts.medium_install.copied,
            Worked: lambda event: event.go(),
            HttpBlock: self._http_block,
            HttpFailed: self._http_failed,
        }

    def stop(self) -> None:
        """Ask the loop to end in order; safe from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Run until ``stop``."""
        boot = self.parts.marker.begin()
        log.info("edge-agent %s starts (last run ended: %s)", AGENT_VERSION, boot)
        if boot != "clean":
            self.reports.event("agent-restarted", "warning", f"the last run ended by: {boot}")
        self._tell_findings()
        if self.parts.state_dir.full:
            self._alarm_once("state-directory-full", self.parts.state_dir.full)
        if self.parts.anchor.note:
            self._alarm_once("trust-root-missing", self.parts.anchor.note)
        if self.parts.state_dir.read_only:
            self._alarm_once("state-directory-read-only", self.parts.state_dir.read_only)
        elif self.desk.damage is not None:
            log.error("%s. %s", self.desk.damage.message, self.desk.damage.hint)
            self.reports.event("trust-damaged", "alarm", self.desk.damage.message)
        self.remote.start()
        self.engine.start()
        self.recorder.start()
        if self.parts.api is not None:
            self.parts.api.start()
        # Every slot is read through first, and a supervisor must not take that for a hang.
        self.parts.systemd.extend_start(READY_AT_LATEST_S + self.update.slots.read_through_s())
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
            what = "a step of the update" if self.parts.worker.stuck else "inference"
            self._survived(what, f"nothing has moved for {stalled_s:.0f} s")

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
            self.parts.spool.flush()
            self._tell_findings()
            self.parts.systemd.status(sentence(self.parts))

    def _say_ready(self, now_s: float) -> None:
        """Once the active version is loaded and warm, or there is none."""
        loaded = self.engine.model is not None or not self.update.state.active
        if self._ready_due_s is not None and (loaded or now_s >= self._ready_due_s):
            self._ready_due_s = None
            self.parts.systemd.ready(sentence(self.parts))

    def _survived(self, where: str, error: Exception | str) -> None:
        """Log what went wrong, but not again with every tick while it lasts."""
        text = f"{where}: {error}"
        now_s = self.clock.monotonic_s()
        if text != self._survived_last or now_s - self._survived_s >= SAY_AGAIN_S:
            log.warning("%s", text)
            self._survived_last, self._survived_s = text, now_s

    def _tell_findings(self) -> None:
        """A spool that loses or refuses data says so, once a kind of trouble."""
        for finding in self.parts.spool.findings:
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

    def _inbound(self, event: Inbound) -> None:
        withdrawals_count = self.desk.withdrawals_count
        refusal = self.fleet.inbound(event)
        if refusal is not None:
            self._survived("refused", refusal.reason)
        if self.desk.withdrawals_count > withdrawals_count:
            self.update.handle(Withdrawn("the fleet took its order back"))

    def _http_block(self, event: HttpBlock) -> None:
        self.parts.budget.spend(message_bytes("", event.wire_bytes, qos=0))
        size_bytes = self.fetcher.puller.size_bytes(event.block.digest)
        if self.parts.sources.counts(event, size_bytes):
            self.fetcher.block(event.block, self.clock.monotonic_s())
        else:
            wrong = f"a blob of {event.block.size_bytes} bytes, approved are {size_bytes}"
            self._http_failed(HttpFailed(wrong))

    def _http_failed(self, event: HttpFailed) -> None:
        if event.wire_bytes:
            self.parts.budget.spend(message_bytes("", event.wire_bytes, qos=0))
        if self.parts.sources.leave_http(event.reason):
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
        self.parts.local_install.hear(order, phase, reason or text)
        self.parts.medium_install.hear(order, phase, reason or text)
        self.fleet.state_changed()

    # What the owner asks. -----------------------------------------------------------------------

    def _request(self, request: Request) -> None:
        what = request.body.get("do")
        try:
            if what == "status":
                request.finish(**full_status(self.parts))
            elif what in ("hold", "release"):
                (self.update.hold if what == "hold" else self.update.release)()
                request.finish(held=self.update.state.held)
                self.fleet.state_changed()
            elif what == "install":
                self.parts.local_install.begin(request)
            elif what == "apply":
                self.parts.medium_install.begin(request)
            else:
                raise AgentError(
                    f"no request {what!r}; there are status, hold, release, install, apply"
                )
        except WherryError as error:
            request.finish(**error.as_json())
        except OSError as error:
            # A full disk, mostly: the client must hear of it, or it would wait for ever.
            request.finish(**AgentError(f"the state directory refuses: {error}").as_json())

    def _end(self) -> None:
        """Stop in order: inference, what it left to say, the link, the marker of a clean end.

        An end that nobody asked for gets no marker: it counts as the crash that it is.
        """
        log.info("stopping")
        parts = self.parts
        inference = (parts.systemd.stopping, self.engine.stop, self.recorder.stop, self._take_rest)
        telling = (parts.spool.flush, self._upload_rest)
        link = (self.fleet.stop, parts.budget.close, parts.sources.stop)
        api = () if parts.api is None else (parts.api.stop,)
        ending = (*api, parts.hooks.close, parts.worker.stop, self.fetcher.cancel)
        marking = (parts.marker.end,) if self._stop.is_set() else ()
        last = (parts.spool.close, *marking, parts.state_dir.close)
        for close in (*inference, *telling, *link, *ending, *last):
            try:
                close()
            except (WherryError, OSError) as error:
                # A full disk must not make a stop that was asked for look like a crash.
                log.warning("stopping: %s", error)

    def _take_rest(self) -> None:
        while not self._events.empty():
            self._take(0.0)

    def _upload_rest(self) -> None:
        until_s = self.clock.monotonic_s() + STOP_UPLOAD_S
        self.fleet.tick(self.clock.monotonic_s())
        while self.fleet.uploading and self.clock.monotonic_s() < until_s:
            self._take(0.05)
            self.fleet.tick(self.clock.monotonic_s())


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
