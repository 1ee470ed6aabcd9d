"""The demo's acts, in order. Each does something real to real processes and waits for what follows.

What the demo does to the world (kills, freezes, darkens) is written down in ``timeline.json``; what
came of it is for the audit to find out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.demo.bad_versions import rebuild, slow_down, swap_weights
from examples.demo.narrator import Narrator
from examples.demo.processes import BIN, Cast, DemoError, free_port, tool, wait_for
from examples.digits.frames import write_frames
from examples.digits.make_data import write_splits

DIGITS = Path(__file__).parents[1] / "digits"
DEVICES = ("cam-1", "cam-2", "cam-3")
DARK_DEVICE = "cam-2"
RATE_HZ = 60
COMMISSION_SAMPLES = 1000
WATCHED_SAMPLES = 2100
BROKER_AWAY_S = 12.0
RESEND_S = 3.0
HEALTH = ("--trial-s", "3", "--frames-min", "60", "--latency-ratio", "5")


class Story:
    """Everything between the first process and the last.

    Args:
        out: an empty directory for all that the demo leaves behind.
        broker: ``auto``, ``mosquitto`` or ``embedded``.
        narrator: tells it.
    """

    def __init__(self, out: Path, broker: str, narrator: Narrator) -> None:
        self.out = out
        self.broker = broker
        self.say = narrator
        self.cast = Cast(out / "logs")
        self.mqtt_port = free_port()
        self.console_port = free_port()
        self.fleet_dir = out / "fleet"
        self.timeline: dict[str, Any] = {"devices": list(DEVICES), "broker": broker}
        self.digests: dict[str, str] = {}

    def fleet(self, *words: str | Path, accept: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Run ``edge-fleet`` on the demo's fleet."""
        return tool(["edge-fleet", *words, "--state", self.fleet_dir], accept=accept)

    def wait(self, what: str, ready: Callable[[], Any], timeout_s: float = 40.0) -> Any:
        """Wait while the terminal shows for what."""
        with self.say.waiting(what):
            return wait_for(what, ready, timeout_s=timeout_s, alive=self.cast.check)

    # The acts. ----------------------------------------------------------------------------------

    def compile_models(self) -> None:
        """A float model becomes a proven int8 bundle; two bad versions are made from it."""
        self.say.act(
            "Compile: a float model becomes an int8 bundle, and the gate says what it cost"
        )
        data = self.out / "data"
        write_splits(data)
        for version, model in (("1.0.0", "digits_float.onnx"), ("1.1.0", "digits_float_v2.onnx")):
            report = self.build(data, version, DIGITS / model)
            self.say.line(
                f"digits {version}: float {report['float']['accuracy']:.1%}, int8"
                f" {report['int8']['accuracy']:.1%} on {report['n']} digits, the drop is at most"
                f" {report['drop_upper_pp']:.2f} pp; {report['int8_ops']['seen']} of"
                f" {report['int8_ops']['expected']} layers seen running in int8"
            )
        good = self.bundle("1.0.0")
        with self.say.waiting("two bad versions are made with ordinary tools"):
            rebuild(good, self.bundle("1.0.1"), "1.0.1", swap_weights)
            rebuild(good, self.bundle("1.0.2"), "1.0.2", slow_down)

    def build(self, data: Path, version: str, model: Path) -> dict[str, Any]:
        """One ``edge-compile build``; returns its report."""
        with self.say.waiting(f"edge-compile build digits {version}"):
            return tool(
                [
                    *("edge-compile", "build", model, "--name", "digits", "--version", version),
                    *("--target", "generic-x86-64", "--preprocess", DIGITS / "preprocess.toml"),
                    *("--calibration", data / "calibration.npz"),
                    *("--selection", data / "selection.npz", "--test", data / "test.npz"),
                    *("--max-drop-pp", "1.5", "--effort", "fast"),
                    *("--out", self.bundle(version).parent),
                ]
            )

    def bundle(self, version: str) -> Path:
        """Where the bundle of a version lies."""
        return self.out / "builds" / version / "bundle"

    def start_fleet(self) -> None:
        """Broker, manager and console come up; the first version is published."""
        self.say.act("Fleet: a broker, a manager with its console, and a first signed version")
        self.start_broker()
        self.cast.start(
            "fleet",
            [
                *(BIN / "edge-fleet", "up", "--state", self.fleet_dir, "--fleet", "demo"),
                *("--broker", f"mqtt://127.0.0.1:{self.mqtt_port}"),
                *("--console-port", str(self.console_port)),
            ],
        )
        self.wait("the manager answers", self.manager_answers)
        self.cast.start(
            "wire-log",
            [
                *(sys.executable, "-m", "examples.demo.wire_log"),
                *("--port", str(self.mqtt_port), "--out", self.out / "wire.jsonl"),
            ],
        )
        self.say.line(f"console: http://127.0.0.1:{self.console_port}/")
        self.publish("first", "1.0.0")

    def start_broker(self) -> None:
        """Start the broker as a process of its own, and wait until it listens."""
        self.cast.start(
            "broker",
            [
                *(BIN / "edge-fleet", "broker", "run", "--kind", self.broker),
                *("--mqtt-port", str(self.mqtt_port), "--state", self.fleet_dir),
            ],
        )

    def manager_answers(self) -> bool:
        """Whether the manager's API is up and its broker connected."""
        health = self.fleet("doctor", accept=(0, 1, 3, 7))
        return health["exit_code"] == 0

    def publish(self, name: str, version: str) -> None:
        """Sign a version and remember its digest."""
        published = self.fleet("publish", self.bundle(version))
        self.digests[name] = published["digest"]
        self.say.line(f"published digits {version}  {published['digest'][:19]}…")

    def start_devices(self) -> None:
        """Three agents enrol, install the first version over MQTT and infer."""
        self.say.act("Devices: three agents enrol, verify, install and infer")
        root = self.out / "root.json"
        root.write_text(json.dumps(self.fleet("root")["root"]))
        for number, device in enumerate(DEVICES):
            home = self.out / "devices" / device
            write_frames(home / "clean", count=1200, seed=number)
            write_frames(home / "dark", count=1200, seed=number, corrupt="dark", severity=2)
            (home / "camera").symlink_to("clean")
            (home / "agent.toml").write_text(self.agent_config(device, home, root))
            self.start_agent(device)
        self.wait("all three are enrolled", lambda: len(self.device_rows()) == len(DEVICES))
        self.roll_out("1.0.0", "first", waves="100%")
        self.wait("all three infer", lambda: all(self.predictions(d) > RATE_HZ for d in DEVICES))

    def start_agent(self, device: str) -> None:
        """Start one agent."""
        config = self.out / "devices" / device / "agent.toml"
        self.cast.start(device, [BIN / "edge-agent", "run", "--config", config])

    def agent_config(self, device: str, home: Path, root: Path) -> str:
        """The agent's configuration file."""
        return f"""[device]
fleet = "demo"
id = "{device}"
hardware = "generic-x86-64"
line = "digits"
state_dir = "{home / "state"}"

[trust]
root = "{root}"

[mqtt]
host = "127.0.0.1"
port = {self.mqtt_port}
resend_s = {RESEND_S}
reconnect_max_s = 2

[source]
kind = "directory"
path = "{home / "camera"}"
rate_hz = {RATE_HZ}

[output]
predictions = "{home / "predictions.jsonl"}"

[telemetry]
window_s = 2
ledger = true

[drift]
sample_hz = {2 * RATE_HZ}
commission_samples = {COMMISSION_SAMPLES}
window_s = 5

[health]
trial_s = 2
frames_min = 40
latency_ratio_max = 5
deadline_s = 60
"""

    def lose_the_broker(self) -> None:
        """The broker is killed and stays away; inference goes on, what was recorded arrives."""
        self.say.act(f"Outage: the broker is killed and stays away for {BROKER_AWAY_S:.0f} s")
        before = {d: self.predictions(d) for d in DEVICES}
        self.timeline["broker_killed_ts"] = time.time()
        self.cast.kill("broker")
        with self.say.waiting("no broker; the devices go on"):
            time.sleep(BROKER_AWAY_S)
        offline = {d: self.predictions(d) - before[d] for d in DEVICES}
        self.timeline["broker_back_ts"] = time.time()
        self.start_broker()
        self.say.line("predictions meanwhile: " + ", ".join(f"{d} {n}" for d, n in offline.items()))
        self.wait("the devices are back online", self.all_online)

    def repeat_on_the_wire(self) -> None:
        """The manager stands still past the resend time-out, so that records come twice."""
        self.say.act("Repeats: the manager freezes, devices send again what was not acknowledged")
        self.cast.freeze("fleet")
        with self.say.waiting(f"the manager is frozen (SIGSTOP) for {2.5 * RESEND_S:.0f} s"):
            time.sleep(2.5 * RESEND_S)
        self.cast.thaw("fleet")
        self.wait("the devices are online", self.all_online)

    def darken_a_camera(self) -> None:
        """One camera goes dark; its drift alarm arrives at the fleet."""
        self.say.act(f"Drift: the light goes out at {DARK_DEVICE}")
        self.wait(
            f"each device has counted its own reference and watched {WATCHED_SAMPLES} samples",
            lambda: all(self.watched(d) >= WATCHED_SAMPLES for d in DEVICES),
            timeout_s=90,
        )
        camera = self.out / "devices" / DARK_DEVICE / "camera"
        self.point(camera, "dark")
        self.timeline["dark"] = {"device": DARK_DEVICE, "ts": time.time()}
        alarm = self.wait("the drift alarm at the fleet", self.first_alarm)
        self.say.line(f"{alarm['device']}: {alarm['text']}")
        self.point(camera, "clean")

    def point(self, camera: Path, target: str) -> None:
        """Let a camera show another directory, in one step."""
        new = camera.with_name("camera.new")
        new.symlink_to(target)
        new.replace(camera)

    def refuse_swapped_weights(self) -> None:
        """A version whose weights were swapped after compiling fails its self-test."""
        self.say.act("Bad version A: weights swapped after compiling, validly signed")
        self.publish("swapped", "1.0.1")
        self.roll_out("1.0.1", "swapped", accept=(6,))

    def return_from_a_slow_version(self) -> None:
        """A version ten times slower passes the self-test, fails its trial, and is left again."""
        self.say.act("Bad version B: right answers, ten times slower, validly signed")
        self.publish("slow", "1.0.2")
        self.roll_out("1.0.2", "slow", accept=(6,))

    def reach_all(self) -> None:
        """A good version reaches every device."""
        self.say.act("Good version: one device first, then all")
        self.publish("good", "1.1.0")
        self.roll_out("1.1.0", "good")
        self.wait(
            "all three answer with the good version",
            lambda: all(self.last_digest(d) == self.digests["good"] for d in DEVICES),
        )

    def roll_out(
        self, version: str, name: str, *, waves: str = "1,100%", accept: tuple[int, ...] = (0,)
    ) -> None:
        """Start a rollout and wait for its end."""
        with self.say.waiting(f"rollout of digits {version} in waves {waves}"):
            ended = self.fleet(
                *("rollout", "start", "digits", version, "--waves", waves, *HEALTH),
                *("--wait", "--timeout-s", "60"),
                accept=accept,
            )
        self.timeline.setdefault("rollouts", {})[name] = ended
        self.say.line(str(ended.get("verdict") or ended.get("reason") or ended.get("state")))

    def end(self) -> None:
        """The agents stop in order and upload what is left; then the fleet stops."""
        self.timeline["digests"] = self.digests
        self.timeline["store"] = str(self.store().relative_to(self.out))
        with self.say.waiting("the agents stop and upload what is left"):
            for device in DEVICES:
                self.cast.stop(device)
        self.cast.stop("wire-log")
        (self.out / "timeline.json").write_text(json.dumps(self.timeline, indent=2))

    def store(self) -> Path:
        """The fleet's SQLite file."""
        (path,) = self.fleet_dir.glob("*.db")
        return path

    # What can be seen from outside. -----------------------------------------------------------

    def device_rows(self) -> list[dict[str, Any]]:
        """``edge-fleet devices``."""
        return list(self.fleet("devices")["items"])

    def all_online(self) -> bool:
        """Whether the fleet sees every device online."""
        rows = self.device_rows()
        return len(rows) == len(DEVICES) and all(row["online"] for row in rows)

    def first_alarm(self) -> dict[str, Any] | None:
        """The first drift alarm that the fleet knows."""
        alarms = [a for row in self.fleet("drift")["items"] for a in row["alarms"]]
        return alarms[0] if alarms else None

    def lines(self, device: str) -> list[str]:
        """The predictions file of a device."""
        path = self.out / "devices" / device / "predictions.jsonl"
        return path.read_text().splitlines() if path.exists() else []

    def predictions(self, device: str) -> int:
        """How many frames a device has answered so far."""
        return len(self.lines(device))

    def watched(self, device: str) -> int:
        """Frames answered beyond those that counted the device's own reference."""
        return self.predictions(device) - COMMISSION_SAMPLES

    def last_digest(self, device: str) -> str:
        """The bundle that answered a device's newest frame."""
        lines = self.lines(device)
        if not lines:
            raise DemoError(f"{device} has answered nothing")
        digest: str = json.loads(lines[-1])["digest"]
        return digest
