"""``edge-agent install``: a bundle from a file, for the one person with one Pi and no fleet.

Where an agent runs on the state directory, it is asked to install and its steps are shown. Where
none runs, this process verifies, stages and self-tests by the same update machine, and the version
goes on trial when the agent is started.
"""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_configs.loader import load_profile
from edge_agent.api import AgentNotRunningError, call
from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError
from edge_agent.hooks import DeviceHooks
from edge_agent.infer.engine import InferenceEngine
from edge_agent.infer.host import Host
from edge_agent.infer.source import DirectorySource
from edge_agent.local_install import LocalBundle, local_order, read_local_bundle
from edge_agent.orders import OrderDesk
from edge_agent.statedir import StateDir
from edge_agent.transfer.fetch import BundleFetcher, import_bundle
from edge_agent.trust.root_file import is_root
from edge_agent.update.events import Event, Ordered
from edge_agent.update.executor import Ports
from edge_agent.update.journal import Journal
from edge_agent.update.manager import UpdateManager
from edge_agent.update.order import Order
from edge_agent.update.slots import Slots
from edge_agent.update.state import Stage
from edge_agent.update.worker import Worker
from edge_contract.errors import ExitCode
from edge_contract.health import HealthSpec
from edge_contract.layout import unpack_tar
from edge_contract.messages import TERMINAL_PHASES, Phase

_STEP_TIMEOUT_S = 600.0
_DEFAULT_HEALTH = HealthSpec(trial_s=30.0, frames_min=20)

Progress = Callable[[str], None]


def install_bundle(
    bundle: Path,
    *,
    trust: Path,
    approval: Path | None,
    state_dir: Path,
    hardware: str,
    config: AgentConfig | None,
    progress: Progress,
) -> dict[str, Any]:
    """Install ``bundle``; returns ``{"phase", "text"}`` for the terminal or ``--json``.

    Raises:
        AgentError: refused by the device, the self-test or the disk; says why.
        ContractError, TrustError: the bundle, its approval or the root is refused.
    """
    try:
        root = trust.read_bytes()
    except OSError as error:
        raise AgentError(
            f"cannot read the trust root {trust}: {error.strerror}",
            hint="on the machine with the keys: edge-fleet root > root.json",
            exit_code=ExitCode.NOT_FOUND,
        ) from error
    if not is_root(root):
        raise AgentError(
            f"{trust}: expected the fleet's root of trust, and this file is something else",
            hint="on the machine with the keys: edge-fleet root > root.json",
            exit_code=ExitCode.AUTH,
        )
    with tempfile.TemporaryDirectory(prefix="wherry-install-") as scratch:
        directory = bundle.absolute()
        if bundle.is_file():
            directory = Path(scratch) / "bundle"
            unpack_tar(bundle, directory)
            beside = bundle.parent / "approval.json"
            approval = approval or (beside if beside.is_file() else None)
        body = {
            "do": "install",
            "bundle": str(directory),
            "trust": str(trust.absolute()),
            "approval": str(approval.absolute()) if approval else "",
        }
        try:
            return _ask_running_agent(state_dir, body, progress)
        except AgentNotRunningError:
            local = read_local_bundle(directory, approval)
            return _install_here(local, root, state_dir, hardware, config, progress)


def _ask_running_agent(state_dir: Path, body: dict[str, Any], progress: Progress) -> dict[str, Any]:
    for reply in call(state_dir, body):
        if "error" in reply:
            raise AgentError(
                str(reply["error"]),
                hint=str(reply.get("hint", "")),
                exit_code=ExitCode(int(reply.get("code", ExitCode.FAILURE))),
            )
        if reply.get("done"):
            return {"phase": reply["phase"], "text": reply["text"]}
        progress(str(reply["text"]))
    raise AgentError(f"the agent on {state_dir} gave no answer")


class _Sink:
    """Hears the update's steps; remembers how each order ended."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.ended: dict[tuple[int, int], tuple[Phase, str]] = {}

    def report(self, order: Order, phase: Phase, reason: str) -> None:
        text = f"{order.line} {order.version}: {reason or phase}"
        self._progress(text)
        if phase in TERMINAL_PHASES:
            self.ended[order.key] = (phase, reason or text)

    def alarm(self, text: str) -> None:
        self._progress(f"warning: {text}")


def _install_here(
    local: LocalBundle,
    root: bytes,
    state_path: Path,
    hardware: str,
    config: AgentConfig | None,
    progress: Progress,
) -> dict[str, Any]:
    clock = SystemClock()
    events: queue.Queue[Event] = queue.Queue()
    with StateDir(state_path, for_owner=True):
        desk = OrderDesk(
            state_path,
            root,
            fleet="",
            device="",
            device_key="",
            line=local.model.name,
            hardware=hardware,
            clock=clock,
        )
        slots = Slots(state_path, hardware)
        worker = Worker(events.put)
        fetcher = BundleFetcher(
            state_path,
            None,
            approved=desk.target,
            in_slot=slots.blob,
            line=local.model.name,
            hardware=hardware,
            post=events.put,
            monotonic_s=clock.monotonic_s,
        )
        # Never started: nothing infers here, the host only loads and tests.
        engine = InferenceEngine(DirectorySource(state_path, loop=False), 1.0, clock)
        host = Host(engine, worker, hardware=hardware, threads=load_profile(hardware).threads)
        hooks_dir = Path(config.hooks.directory) if config and config.hooks.directory else None
        hooks = DeviceHooks(
            hooks_dir, events.put, from_bundle=bool(config and config.hooks.from_bundle)
        )
        sink = _Sink(progress)
        (state_path / "update").mkdir(exist_ok=True)
        update = UpdateManager(
            Journal(state_path / "update" / "journal", clock.wall_s),
            slots,
            Ports(fetcher, host, host, hooks, sink, worker),
            clock.monotonic_s,
        )
        update.start("clean")
        order = local_order(local, desk, update.state, config.health if config else _DEFAULT_HEALTH)
        import_bundle(local.bundle, fetcher.blob)
        update.handle(Ordered(order))
        try:
            if update.blocked:
                raise AgentError(
                    f"{order.line} {order.version} was not installed: {update.blocked}"
                )
            return _drive(update, events, sink, order, clock)
        finally:
            hooks.close()
            worker.stop()


def _drive(
    update: UpdateManager,
    events: queue.Queue[Event],
    sink: _Sink,
    order: Order,
    clock: SystemClock,
) -> dict[str, Any]:
    """Handle events until the version is on trial, or the order has ended.

    Another order may end on the way: one that waited for its trial is superseded by this one.
    """
    until_s = clock.monotonic_s() + _STEP_TIMEOUT_S
    while clock.monotonic_s() < until_s:
        if order.key in sink.ended:
            phase, reason = sink.ended[order.key]
            if phase != "committed":
                raise AgentError(f"{order.line} {order.version} was not installed: {reason}")
            return {"phase": phase, "text": f"{order.line} {order.version} is the active version"}
        under_way = update.state.order
        if update.state.stage is Stage.TRIAL and under_way and under_way.key == order.key:
            return {
                "phase": "trial",
                "text": f"{order.line} {order.version} passed its self-test; it goes on trial with"
                " the next `edge-agent run`",
            }
        try:
            update.handle(events.get(timeout=0.2))
        except queue.Empty:
            update.tick(clock.monotonic_s())
    raise AgentError(
        f"{order.line} {order.version}: no end after {_STEP_TIMEOUT_S:.0f} s, in stage"
        f" {update.state.stage.value}{f' ({update.blocked})' if update.blocked else ''}"
    )
