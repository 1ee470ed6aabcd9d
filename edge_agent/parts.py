"""What an agent is made of, each part made once, in the order in which they need each other."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from device_configs.loader import load_profile
from device_configs.service.notify import Systemd
from edge_agent.api import LocalApi
from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig
from edge_agent.drift.monitor import DriftSettings
from edge_agent.errors import AgentError, DamagedTrustError
from edge_agent.fleet_link import FleetLink
from edge_agent.hooks import DeviceHooks
from edge_agent.identity import Identity
from edge_agent.infer.drift_watch import DriftWatch
from edge_agent.infer.engine import InferenceEngine
from edge_agent.infer.host import Host
from edge_agent.infer.predictions import PredictionsFile
from edge_agent.infer.recorder import Recorder
from edge_agent.infer.source import open_source
from edge_agent.local_install import LocalInstall
from edge_agent.medium_install import MediumInstall
from edge_agent.orders import OrderDesk
from edge_agent.remote_config import RemoteConfig
from edge_agent.reports import Reports, UpdateReports, printable
from edge_agent.settings import own_settings, setters
from edge_agent.statedir import StateDir
from edge_agent.telemetry.drift_windows import merge_windows
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.unkept import CAP_BYTES, UnkeptSpool
from edge_agent.transfer.block_sources import BlockSources
from edge_agent.transfer.budget import ByteBudget
from edge_agent.transfer.fetch import BundleFetcher, Network
from edge_agent.transfer.http_source import HttpSource
from edge_agent.transfer.pace import Pace
from edge_agent.trust.anchor import settle_anchor
from edge_agent.update.boot import BootMarker
from edge_agent.update.executor import Ports
from edge_agent.update.journal import Journal
from edge_agent.update.manager import UpdateManager
from edge_agent.update.order import Order
from edge_agent.update.pointer import BOOT_FILE
from edge_agent.update.readiness import DeviceReadiness, next_opening_ts
from edge_agent.update.slots import Slots
from edge_agent.update.worker import Worker
from edge_contract.messages import Phase
from edge_contract.telemetry import merge_payloads

SPOOL_SHARES = {"telemetry": 0.45, "drift": 0.25, "event": 0.2, "status": 0.1}
_KERNEL_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger("edge_agent")


class Parts:
    """The parts of one agent, made and joined; nothing is started but the update's worker.

    Args:
        config: the configuration file's content.
        clock: the device's clocks.
        post: puts an event into the loop's queue; called on any thread.
        hear: is told of every step of an update.
        survived: is told of a trouble that was got over: where it was, and what.

    Raises:
        AgentError: the state directory is in use, full or not writable; a key or root is unusable.
        ContractError: no such device profile.
    """

    def __init__(
        self,
        config: AgentConfig,
        clock: SystemClock,
        *,
        post: Callable[[Any], None],
        hear: Callable[[Order, Phase, str], None],
        survived: Callable[[str, str], None],
    ) -> None:
        device = config.device
        profile = load_profile(device.hardware)
        path = Path(device.state_dir)
        self.config = config
        self.key_trouble = ""
        self.state_dir = StateDir(path)
        self.anchor = settle_anchor(
            Path(config.trust.root), path / "trust", installed=(path / BOOT_FILE).exists()
        )
        read_only = self.state_dir.read_only
        refused = DamagedTrustError(read_only) if read_only else None
        self._unkept = UnkeptSpool() if refused else None
        spool_dir = self._unkept.path if self._unkept else path
        spool_cap = int(config.telemetry.spool_cap_mb * 1e6)
        boot_id = _KERNEL_BOOT_ID.read_text().strip()
        self.marker = BootMarker(path, boot_id)
        self.identity = self._read_identity(path / "device-key.pem")
        fingerprint = self.identity.fingerprint if self.identity else ""
        self.spool = Spool.open(
            spool_dir / "spool.db",
            cap_bytes=min(spool_cap, CAP_BYTES) if refused else spool_cap,
            quotas=SPOOL_SHARES,
            # One a start, not one a kernel boot: counters lost with a damaged spool cannot collide.
            boot_id=secrets.token_hex(8),
            merge={"telemetry": merge_payloads, "drift": merge_windows},
            clock=clock.wall_s,
            ledger_path=spool_dir / "spool-ledger.jsonl" if config.telemetry.ledger else None,
        )
        self.desk = OrderDesk(
            path,
            self.anchor.root,
            damage=refused or self.anchor.damage,
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
            public=self.identity.public if self.identity else b"",
            spool=self.spool,
            clock=clock,
            facts=self.facts,
        )
        self.engine = InferenceEngine(open_source(config.source), config.source.rate_hz, clock)
        self.worker = Worker(post, clock.monotonic_s)
        slots = Slots(path, device.hardware)
        self.budget = ByteBudget(
            path / "byte-budget.json", config.link.limit_bytes, clock.monotonic_s, boot_id
        )
        http = config.transfer.http
        self.sources = BlockSources(
            HttpSource(http, post, clock.monotonic_s) if http else None,
            lambda ask: self.fleet.ask_blocks(ask),
            lambda reason: survived("blobs over HTTP", reason),
        )
        self.fetcher = BundleFetcher(
            path,
            Network(
                ask=self.sources.ask,
                ask_delta=lambda ask: self.fleet.ask_delta(ask),
                held=slots.layers,
                aside=self.worker,
                post=post,
                pace=Pace(config.transfer.rate_max_kb_s * 1e3),
                room_bytes=self.budget.blob_room_bytes,
                elsewhere=self.sources.leave_http,
            ),
            approved=self.desk.target,
            in_slot=slots.blob,
            line=device.line,
            hardware=device.hardware,
            post=post,
            monotonic_s=clock.monotonic_s,
        )
        host = Host(self.engine, self.worker, hardware=device.hardware, threads=profile.threads)
        readiness = DeviceReadiness(config.update, path, self.desk.present_s, clock.monotonic_s)
        hooks_dir = Path(config.hooks.directory) if config.hooks.directory else None
        self.hooks = DeviceHooks(hooks_dir, post, from_bundle=config.hooks.from_bundle)
        (path / "update").mkdir(exist_ok=True)
        self.update = UpdateManager(
            Journal(path / "update" / "journal", clock.wall_s),
            slots,
            Ports(
                fetcher=self.fetcher,
                tester=host,
                host=host,
                hooks=self.hooks,
                sink=UpdateReports(self.reports, hear),
                aside=self.worker,
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
            post=post,
            clock=clock,
        )
        self.remote = RemoteConfig(
            path / "trust" / "configuration.json",
            own_settings(config),
            setters(self.recorder, self.budget, readiness),
            allowed=config.trust.remote_config,
            accept=self.desk.configuration,
            tell=self._tell,
            changed=lambda: self.fleet.state_changed(),
        )
        self.fleet = FleetLink(
            config,
            self.identity,
            self.spool,
            self.reports,
            self.desk,
            self.fetcher,
            self.budget,
            configure=self.remote.received,
            post=post,
            clock=clock,
        )
        self.local_install = LocalInstall(
            self.desk,
            self.fetcher,
            self.worker,
            post=post,
            order=self.update.handle,
            state=lambda: self.update.state,
            health=config.health,
            root=self.anchor.root or b"",
        )
        self.medium_install = MediumInstall(
            device.id,
            self.desk,
            self.fetcher,
            self.worker,
            post=post,
            order=self.update.handle,
            state=lambda: self.update.state,
            health=config.health,
            status=lambda: (self.reports.topic("status", "update"), self.reports.last_status),
            facts=lambda: self.reports.state(""),
            sign=self._sign,
        )
        self.api = None if refused else LocalApi(path, post)
        self.systemd = Systemd()

    def facts(self) -> dict[str, Any]:
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
            "clock_known": self.desk.present_s() is not None,
            **self.remote.facts(),
        }

    def _opens_ts(self) -> float:
        """When the windows that the update waits for are open next; 0 where it waits for none."""
        if not self.update.waits_for:
            return 0.0
        order = self.update.state.order
        return next_opening_ts(self.config.update, order, self.desk.present_s())

    def _tell(self, name: str, severity: Literal["info", "warning"], text: str) -> None:
        """One event, for the fleet and for the log."""
        log.log(logging.WARNING if severity == "warning" else logging.INFO, "%s", text)
        self.reports.event(name, severity, text)

    def _held(self) -> frozenset[str]:
        """Digests in the slots: what may come back below a line's signed floor."""
        kept = (self.update.slots.active(), self.update.slots.fallback())
        return frozenset(slot.digest for slot in kept if slot is not None)

    def _read_identity(self, path: Path) -> Identity | None:
        """The device's key; None where it is damaged: it cannot speak then, but it can infer."""
        try:
            return Identity(path)
        except AgentError as error:
            log.error("%s; no fleet until then, inference goes on. %s", error.message, error.hint)
            self.key_trouble = error.message
            return None

    def _sign(self, topic: str, payload: bytes) -> str:
        """The device's signature; without its key there is none, and the fleet takes nothing."""
        return self.identity.sign(topic, payload) if self.identity else ""


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
