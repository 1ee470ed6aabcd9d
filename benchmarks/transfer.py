"""Transfer over links as they are: cut, slow, lossy, crowded. Real mosquitto, real manager process.

    python benchmarks/transfer.py [--json] [--only cuts|link|crowd]

1. ``cuts``: 20 MB while the connection breaks 20 times at random moments.
2. ``link``: 1 MB over 256 kbit/s with 3 % loss and 100 ms each way (two network namespaces; needs
   root), while telemetry goes out every second.
3. ``crowd``: 200 devices pull 1 MB each at once, one by one and by broadcast.

The devices are the agent's own puller over a small MQTT client (``light_device.py``). Prints the
criteria and exits 1 where one fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.bad_link import BadLink  # noqa: E402
from benchmarks.light_device import LightDevice  # noqa: E402
from edge_contract.layout import BundleDir, write_bundle  # noqa: E402
from edge_contract.manifest import (  # noqa: E402
    WEIGHT,
    ConfigDetail,
    Descriptor,
)
from fleet.cli.api_client import ApiClient  # noqa: E402
from fleet.manager.state_dir import StateDir  # noqa: E402
from tests.small_bundle import small_files  # noqa: E402

FLEET = "bench"
HARDWARE = "generic-x86-64"
TWICE_MAX = 0.05
EGRESS_MAX = 1.3
TELEMETRY_P95_MAX_S = 10.0
MANAGER_MAX_BYTES = 200e6
UNFAIR_MAX = 3.0
_START_S = 30.0
_EDGE_FLEET = "from fleet.cli import main; main()"

Wrap = Callable[..., list[str]]


def _plainly(*command: str) -> list[str]:
    return list(command)


@dataclass
class Fleet:
    """A broker and a manager as processes, and one published bundle."""

    state: StateDir
    address: tuple[str, int]
    wants: list[Descriptor]
    manager: subprocess.Popen[str]
    wrap: Wrap

    def start_rollout(self) -> None:
        """Order the bundle for every device that is known."""
        self._tool("rollout", "start", "digits", "1.0.0", "--waves", "100%")

    def devices_count(self) -> int:
        """Devices that the manager has heard the state of."""
        rows = json.loads(self._tool("devices", "--json"))
        return sum(1 for row in rows if row["state"] == "online")

    def sent_bytes(self) -> int:
        """Payload bytes of blocks that the manager has published."""
        return int(ApiClient(self.state).get("health")["blob_bytes_sent"])

    def memory_max_bytes(self) -> int:
        """The manager's peak, resident."""
        text = Path(f"/proc/{self.manager.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+)", text)
        assert found is not None
        return int(found[1]) * 1024

    def _tool(self, *words: str) -> str:
        command = self.wrap(sys.executable, "-c", _EDGE_FLEET, *words)
        command += ["--state", str(self.state.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stderr}")
        return done.stdout


@contextmanager
def running_fleet(
    directory: Path, size_bytes: int, *, host: str = "127.0.0.1", wrap: Wrap = _plainly
) -> Iterator[Fleet]:
    """Start everything below ``directory``; the weights have ``size_bytes`` random bytes."""
    port = _free_port()
    broker_dir = directory / "broker"
    broker_dir.mkdir(parents=True)
    settings = (
        f"listener {port} {host}\nallow_anonymous true\nset_tcp_nodelay true\n"
        "max_queued_messages 0\nmax_inflight_messages 0\n"
    )
    (broker_dir / "mosquitto.conf").write_text(settings)
    mosquitto = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if mosquitto is None:
        raise SystemExit("needs mosquitto: apt-get install mosquitto")
    log = (directory / "log").open("w")
    processes = [
        subprocess.Popen(
            wrap(mosquitto, "-c", str(broker_dir / "mosquitto.conf")), stdout=log, stderr=log
        )
    ]
    try:
        bundle = _bundle(directory / "bundle", size_bytes)
        state = StateDir(directory / "state")
        up = wrap(
            *(sys.executable, "-c", _EDGE_FLEET, "up", "--state", str(state.path)),
            *("--fleet", FLEET, "--broker", f"mqtt://{host}:{port}"),
            *("--console-port", "0", "--no-console"),
        )
        manager = subprocess.Popen(up, stdout=log, stderr=log, text=True, cwd=HERE.parent)
        processes.append(manager)
        layer = bundle.manifest.layer(f"variants/{HARDWARE}.onnx")
        fleet = Fleet(state, (host, port), [layer], manager, wrap)
        _wait_for("the manager", lambda: (state.path / "api.json").exists(), directory / "log")
        fleet._tool("publish", str(bundle.path))
        yield fleet
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()
        log.close()


def cuts(size_bytes: int, cuts_count: int, seed: int) -> dict[str, Any]:
    """One device, whose connection breaks at random moments."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        with running_fleet(directory / "fleet", size_bytes) as fleet:
            device = LightDevice("cam-1", FLEET, fleet.address, directory / "cam-1", fleet.wants)
            device.cuts_at_bytes = sorted(dice.randrange(1, size_bytes) for _ in range(cuts_count))
            asyncio.run(_pull(fleet, [device], timeout_s=120))
            progress = device.puller.progress
            return {
                "size_bytes": size_bytes,
                "cuts_count": cuts_count - len(device.cuts_at_bytes),
                "connections_count": device.connections_count,
                "received_twice_share": progress.repeated_bytes / size_bytes,
                "egress_ratio": fleet.sent_bytes() / size_bytes,
                "lasted_s": device.lasted_s,
            }


def link(size_bytes: int, *, rate_kbit_s: float, loss: float, delay_ms: float) -> dict[str, Any]:
    """One device behind a bad link, with telemetry every second."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        BadLink(rate_kbit_s=rate_kbit_s, loss=loss, delay_ms=delay_ms) as wire,
        running_fleet(
            Path(scratch) / "fleet", size_bytes, host=wire.address, wrap=wire.near
        ) as fleet,
    ):
        part = {
            "address": fleet.address,
            "state_dir": str(Path(scratch) / "cam-1"),
            "digest": fleet.wants[0].digest,
            "size": fleet.wants[0].size,
        }
        least_s = size_bytes * 8 / (rate_kbit_s * 1e3)
        device = subprocess.Popen(
            wire.far(
                *(sys.executable, __file__, "--part", json.dumps(part)),
                *("--timeout-s", str(10 * least_s + 60)),
            ),
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parent,
        )
        _wait_for("the device", lambda: fleet.devices_count() == 1, Path(scratch) / "fleet" / "log")
        fleet.start_rollout()
        output, _ = device.communicate()
        if device.returncode:
            raise SystemExit("the device behind the bad link failed")
        return {"size_bytes": size_bytes, "least_s": least_s, **json.loads(output)}


def crowd(devices_count: int, size_bytes: int, *, listening: bool) -> dict[str, Any]:
    """Many devices at once."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        with running_fleet(directory / "fleet", size_bytes) as fleet:
            devices = [
                LightDevice(
                    f"cam-{number}",
                    FLEET,
                    fleet.address,
                    directory / f"cam-{number}",
                    fleet.wants,
                    listening=listening,
                )
                for number in range(devices_count)
            ]
            asyncio.run(_pull(fleet, devices, timeout_s=240))
            lasted_s = [device.lasted_s for device in devices]
            copies = fleet.sent_bytes() / size_bytes
            return {
                "devices_count": devices_count,
                "size_bytes": size_bytes,
                "broadcast": listening,
                "copies_sent": copies,
                "manager_max_bytes": fleet.memory_max_bytes(),
                "median_s": statistics.median(lasted_s),
                "slowest_s": max(lasted_s),
                "unfairness": max(lasted_s) / statistics.median(lasted_s),
                "received_twice_share": sum(d.puller.progress.repeated_bytes for d in devices)
                / (devices_count * size_bytes),
            }


async def _pull(fleet: Fleet, devices: list[LightDevice], *, timeout_s: float) -> None:
    """Run the devices until each has pulled what it wants."""
    tasks = [asyncio.create_task(device.run()) for device in devices]
    left = len(devices)
    done = asyncio.Event()

    def one_less() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    for device in devices:
        device.on_end = one_less
    until_s = time.monotonic() + _START_S
    while await asyncio.to_thread(fleet.devices_count) < len(devices):
        if time.monotonic() > until_s:
            raise SystemExit("not all devices came online")
        await asyncio.sleep(0.3)
    await asyncio.to_thread(fleet.start_rollout)
    try:
        await asyncio.wait_for(done.wait(), timeout_s)
    except asyncio.TimeoutError:
        raise SystemExit(f"{left} devices had not ended after {timeout_s:g} s") from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    failed = [device.ended for device in devices if device.ended]
    if failed:
        raise SystemExit(f"{len(failed)} devices failed: {failed[0]}")


async def _part(part: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """The device behind the bad link, in a process of its own."""
    wanted = Descriptor(media_type=WEIGHT, digest=part["digest"], size=part["size"])
    host, port = part["address"]
    device = LightDevice(
        *("cam-1", FLEET, (host, port), Path(part["state_dir"]), [wanted]), telemetry_every_s=1.0
    )
    done = asyncio.Event()
    device.on_end = done.set
    task = asyncio.create_task(device.run())
    await asyncio.wait_for(done.wait(), timeout_s)
    delays_s = sorted(device.delays_s)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if device.ended:
        raise SystemExit(device.ended)
    return {
        "lasted_s": device.lasted_s,
        "telemetry_count": len(delays_s),
        "telemetry_p50_s": statistics.median(delays_s),
        "telemetry_p95_s": delays_s[min(len(delays_s) - 1, int(0.95 * len(delays_s)))],
        "received_twice_share": device.puller.progress.repeated_bytes / wanted.size,
        "connections_count": device.connections_count,
    }


def criteria(found: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """What must hold, in words."""
    checks = {}
    if "cuts" in found:
        row = found["cuts"]
        cut = f"{row['size_bytes'] / 1e6:g} MB cut {row['cuts_count']} times"
        twice, egress = row["received_twice_share"], row["egress_ratio"]
        checks[f"{cut}: {twice:.1%} received twice, below {TWICE_MAX:.0%}"] = twice < TWICE_MAX
        checks[f"{cut}: egress {egress:.2f}x, at most {EGRESS_MAX}x"] = egress <= EGRESS_MAX
    if "link" in found:
        row = found["link"]
        delay_s = row["telemetry_p95_s"]
        checks[
            f"{row['size_bytes'] / 1e6:g} MB over the bad link arrived in {row['lasted_s']:.0f} s"
        ] = True
        checks[f"telemetry meanwhile: p95 {delay_s:.1f} s, at most {TELEMETRY_P95_MAX_S:g} s"] = (
            delay_s <= TELEMETRY_P95_MAX_S
        )
    for name in ("crowd", "crowd_broadcast"):
        if name not in found:
            continue
        row = found[name]
        who = f"{row['devices_count']} devices{' (broadcast)' if row['broadcast'] else ''}"
        memory, unfair = row["manager_max_bytes"], row["unfairness"]
        checks[f"{who}: manager {memory / 1e6:.0f} MB, below 200"] = memory < MANAGER_MAX_BYTES
        checks[f"{who}: slowest {unfair:.2f}x the median, at most {UNFAIR_MAX:g}x"] = (
            unfair <= UNFAIR_MAX
        )
    return checks


def main() -> int:
    """Print figures and criteria; 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("cuts", "link", "crowd"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--timeout-s", type=float, default=600.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(asyncio.run(_part(json.loads(given.part), given.timeout_s))))
        return 0
    found: dict[str, dict[str, Any]] = {}
    if given.only in (None, "cuts"):
        found["cuts"] = cuts(20_000_000, 20, given.seed)
    if given.only in (None, "link"):
        if os.geteuid():
            raise SystemExit("the bad link needs root (network namespaces); --only cuts|crowd")
        found["link"] = link(1_000_000, rate_kbit_s=256, loss=0.03, delay_ms=100)
    if given.only in (None, "crowd"):
        found["crowd"] = crowd(200, 1_000_000, listening=False)
        found["crowd_broadcast"] = crowd(200, 1_000_000, listening=True)
    checks = criteria(found)
    if given.json:
        print(json.dumps({**found, "criteria": checks}, indent=2))
    else:
        for name, row in found.items():
            print(name)
            for key, value in row.items():
                print(
                    f"  {key:<22} {value:.3f}"
                    if isinstance(value, float)
                    else f"  {key:<22} {value}"
                )
        for text, held in checks.items():
            print(f"{'ok  ' if held else 'FAIL'}  {text}")
    return 0 if all(checks.values()) else 1


def _bundle(path: Path, size_bytes: int) -> BundleDir:
    """A bundle whose weights are random: nothing compresses, nothing repeats."""
    weights = random.Random(7).randbytes(size_bytes)
    files = small_files("digits", "1.0.0", {HARDWARE: weights})
    write_bundle(path, name="digits", version="1.0.0", files=files, detail=ConfigDetail())
    return BundleDir(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(what: str, ready: Callable[[], bool], log: Path) -> None:
    until_s = time.monotonic() + _START_S
    while not ready():
        if time.monotonic() > until_s:
            raise SystemExit(f"waited in vain for {what}\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
