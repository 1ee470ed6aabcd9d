"""What the agent keeps in memory: resident size after 1,000 inferences, and CPU at rest.

The agent is the real one (``edge-agent run``), started on a fresh state directory. A 4 MB int8
model, made here, is installed while it runs, so TUF has verified a real approval; OpenSSL is loaded
with a client context before the agent, as a TLS connection to the fleet's own CA needs it; the link
tries a broker that is not there. Read are ``VmRSS`` and CPU time from ``/proc``: after 1,000
frames, after a further update (two versions were in memory meanwhile), and over 20 s at rest.

Two runs: frames as ``.npy`` (OpenCV must not be loaded) and as pictures that are resized by OpenCV.
Exits with 1 where a figure misses its criterion.

``python benchmarks/agent_memory.py [--json]``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from onnx import helper, numpy_helper

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.made_classifier import (  # noqa: E402
    golden_of,
    manifest_of,
    session_of,
    with_head,
)
from device_configs.loader import load_profile  # noqa: E402
from edge_contract.codec import encode_json  # noqa: E402
from edge_contract.golden import encode_golden  # noqa: E402
from edge_contract.layout import write_bundle  # noqa: E402
from edge_contract.manifest import WEIGHT, WEIGHT_CONFIG, ConfigDetail  # noqa: E402
from fleet.repository.tuf_repository import Repository  # noqa: E402

SIDE_PX = 64
CHANNELS = 512
LAYERS = 16
"""Of 512 x 512 int8 weights: 4.2 MB."""
FRAMES = 1000
REST_S = 20.0
LIMIT_MB = {"without vision": 100.0, "with vision": 125.0}
LIMIT_REST_PERCENT = 1.0
HARDWARE = "generic-x86-64" if platform.machine() == "x86_64" else "raspberry-pi-4"

_AGENT = (
    "import ssl, sys; tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); "
    "from edge_agent.cli import main; sys.exit(main(sys.argv[1:]))"
)


def int8_network(seed: int) -> bytes:
    """A convolutional classifier in QDQ form, s8 weights and u8 activations."""
    rng = np.random.default_rng(seed)
    constants = [
        numpy_helper.from_array(np.float32(0.02), "scale"),
        numpy_helper.from_array(np.uint8(0), "zero"),
        numpy_helper.from_array(np.float32(0.002), "weight_scale"),
        numpy_helper.from_array(np.int8(0), "weight_zero"),
    ]
    nodes, name = [], "frame"

    def quantised(source: str, label: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"q{label}"]))
        nodes.append(
            helper.make_node("DequantizeLinear", [f"q{label}", "scale", "zero"], [f"d{label}"])
        )
        return f"d{label}"

    name = quantised(name, "in")
    for layer in range(LAYERS + 1):
        stem = layer == 0
        shape = (CHANNELS, 3 if stem else CHANNELS, *((8, 8) if stem else (1, 1)))
        weights = rng.integers(-20, 21, shape).astype(np.int8)
        constants.append(numpy_helper.from_array(weights, f"w{layer}"))
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"w{layer}", "weight_scale", "weight_zero"], [f"wd{layer}"]
            )
        )
        nodes.append(
            helper.make_node(
                "Conv", [name, f"wd{layer}"], [f"c{layer}"], strides=[8, 8] if stem else [1, 1]
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        name = quantised(f"r{layer}", str(layer))
    return with_head(nodes, constants, name, channels=CHANNELS, side_px=SIDE_PX, rng=rng)


def write_bundle_of(path: Path, version: str, data: bytes) -> None:
    """The network as a bundle for this machine."""
    model = manifest_of(
        "memory", version, side_px=SIDE_PX, target=HARDWARE, scheme="u8s8", resize="linear"
    )
    frames = np.random.default_rng(2).integers(0, 255, (2, SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
    golden = golden_of(session_of(data, model), frames)
    files = {
        "model.json": (WEIGHT_CONFIG, encode_json(model)),
        "m": (WEIGHT, data),
        "g": (WEIGHT_CONFIG, encode_golden(golden)),
    }
    write_bundle(path, name="memory", version=version, files=files, detail=ConfigDetail())


class Device:
    """One agent process in a directory of its own.

    Args:
        home: an empty directory.
        vision: frames are pictures, not arrays.
        python: whose agent it is; this checkout's where it is this one.
    """

    def __init__(self, home: Path, *, vision: bool, python: str = sys.executable) -> None:
        self.home = home
        self._python = python
        self._cwd = HERE.parent if python == sys.executable else home
        repository = Repository(home / "repository", "bench", time.time)
        repository.initialise()
        (home / "root.json").write_bytes(repository.root_bytes())
        for number, version in enumerate(("1.0.0", "1.1.0")):
            path = home / version / "bundle"
            write_bundle_of(path, version, int8_network(number))
            repository.publish(path, approval=path.parent / "approval.json")
        (home / "frames").mkdir()
        rng = np.random.default_rng(3)
        for number in range(20):
            if vision:
                picture = rng.integers(0, 255, (240, 320, 3)).astype(np.uint8)
                cv2.imwrite(str(home / "frames" / f"{number}.png"), picture)
            else:
                frame = rng.integers(0, 255, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
                np.save(home / "frames" / f"{number}.npy", frame)

    def configure(self, rate_hz: float) -> None:
        """The configuration, with frames at this rate."""
        (self.home / "agent.toml").write_text(
            f'[device]\nfleet = "bench"\nid = "one"\nhardware = "{HARDWARE}"\nline = "memory"\n'
            f'state_dir = "{self.home}/state"\n[trust]\nroot = "{self.home}/root.json"\n'
            f'[source]\nkind = "directory"\npath = "{self.home}/frames"\nrate_hz = {rate_hz}\n'
            '[mqtt]\nhost = "127.0.0.1"\nport = 1\nreconnect_max_s = 5\n'
            "[health]\ntrial_s = 2\nframes_min = 20\ndeadline_s = 120\n"
        )

    @contextmanager
    def running(self) -> Iterator[int]:
        """The agent; yields its process id."""
        log = (self.home / "agent.log").open("a")
        process = subprocess.Popen(
            [self._python, "-c", _AGENT, "run", "--config", str(self.home / "agent.toml")],
            stdout=log,
            stderr=log,
            cwd=self._cwd,
        )
        try:
            self.wait("an agent", self.status)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            log.close()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One ``edge-agent`` command."""
        return subprocess.run(
            [self._python, "-m", "edge_agent.cli", *words],
            capture_output=True, text=True, cwd=self._cwd, check=False,
        )  # fmt: skip

    def install(self, version: str) -> None:
        """Install while it runs, to the commit."""
        bundle, root = self.home / version / "bundle", self.home / "root.json"
        config = self.home / "agent.toml"
        done = self.command(
            "install", str(bundle), "--trust", str(root), "--config", str(config), "--json"
        )
        if done.returncode:
            raise SystemExit(f"cannot install: {done.stdout}{done.stderr}")

    def status(self) -> dict[str, Any]:
        """``edge-agent status``; empty where none answers."""
        done = self.command("status", "--config", str(self.home / "agent.toml"), "--json")
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def answered(self) -> int:
        """Frames so far."""
        return int(self.status()["inference"]["answered_count"])

    def wait(self, what: str, ready: Callable[[], Any]) -> None:
        """Ask until true."""
        until_s = time.monotonic() + 120
        while time.monotonic() < until_s:
            if ready():
                return
            time.sleep(0.5)
        raise SystemExit(f"in vain: {what}\n{(self.home / 'agent.log').read_text()[-3000:]}")


def resident_mb(pid: int) -> float:
    """VmRSS in megabytes of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit(f"no VmRSS of process {pid}")


def cpu_s(pid: int) -> float:
    """User and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def loaded(pid: int, library: str) -> bool:
    """Whether a library is mapped."""
    return library in Path(f"/proc/{pid}/maps").read_text()


def measure(home: Path, *, vision: bool) -> dict[str, float]:
    """One device from its first model to a rest.

    Raises:
        SystemExit: a library that should (not) be loaded is (not).
    """
    device = Device(home, vision=vision)
    device.configure(rate_hz=50)
    figures: dict[str, float] = {}
    with device.running() as pid:
        device.install("1.0.0")
        device.wait(f"{FRAMES} frames", lambda: device.answered() >= FRAMES)
        for library, expected in (("cv2", vision), ("libssl", True), ("onnxruntime", True)):
            if loaded(pid, library) != expected:
                raise SystemExit(f"{library} is {'not ' if expected else ''}loaded")
        figures["resident_mb"] = round(resident_mb(pid), 1)
        device.install("1.1.0")
        time.sleep(3.0)
        figures["after_update_mb"] = round(resident_mb(pid), 1)
    device.configure(rate_hz=0.01)
    with device.running() as pid:
        time.sleep(5.0)
        before_s = cpu_s(pid)
        time.sleep(REST_S)
        figures["rest_cpu_percent"] = round((cpu_s(pid) - before_s) / REST_S * 100, 2)
    return figures


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    load_profile(HARDWARE)
    found: dict[str, dict[str, float]] = {}
    for name in LIMIT_MB:
        with tempfile.TemporaryDirectory() as home:
            found[name] = measure(Path(home), vision=name == "with vision")
    missed = [
        f"{name}, {what}"
        for name, figures in found.items()
        for what, limit in (
            ("resident_mb", LIMIT_MB[name]),
            ("after_update_mb", LIMIT_MB[name]),
            ("rest_cpu_percent", LIMIT_REST_PERCENT),
        )
        if figures[what] > limit
    ]
    if arguments.json:
        print(json.dumps({**found, "missed": missed}))
        return bool(missed)
    print(f"the agent on this machine ({platform.machine()}), 4 MB int8 model, TUF and TLS loaded:")
    for name, figures in found.items():
        print(
            f"  {name:15} {figures['resident_mb']:6.1f} MB after {FRAMES} frames,"
            f" {figures['after_update_mb']:6.1f} MB after an update (at most"
            f" {LIMIT_MB[name]:.0f}); {figures['rest_cpu_percent']:.2f} % CPU at rest"
            f" (at most {LIMIT_REST_PERCENT:.0f})"
        )
    print("missed: " + "; ".join(missed) if missed else "all within their criteria")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
