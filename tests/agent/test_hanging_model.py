"""A new version that hangs in its trial is ended by the watchdog, and the old one comes back."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.agent.bundles import MODEL
from tests.agent.conftest import Bench
from tests.agent.test_agent_damage import installed

__all__ = ["installed"]
WATCHDOG_S = 2.0
WHITE = "00-white.npy"


def hangs_on_white() -> bytes:
    """The digits network behind a loop that turns once, and for ever on a frame that is white.

    Its golden vectors are right: no frame of theirs is white.
    """
    model = onnx.load(MODEL)
    graph = model.graph
    name = graph.input[0].name
    for node in graph.node:
        node.input[:] = ["behind" if source == name else source for source in node.input]
    number, cond, at = TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["on_out"]),
            helper.make_node("Neg", ["x"], ["minus"]),
            helper.make_node("Neg", ["minus"], ["x_out"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("n", number, []),
            helper.make_tensor_value_info("on", cond, []),
            helper.make_tensor_value_info("x", at, None),
        ],
        [
            helper.make_tensor_value_info("on_out", cond, []),
            helper.make_tensor_value_info("x_out", at, None),
        ],
    )
    constants = {
        "white": (at, [], [0.999]),
        "for_ever": (number, [], [2**62]),
        "once": (number, [], [1]),
        "yes": (cond, [], [True]),
    }
    for label, (kind, shape, values) in constants.items():
        graph.initializer.append(helper.make_tensor(label, kind, shape, values))
    front = [
        helper.make_node("ReduceMean", [name], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "white"], ["is_white"]),
        helper.make_node("Where", ["is_white", "for_ever", "once"], ["turns"]),
        helper.make_node("Loop", ["turns", "yes", name], ["behind"], body=body),
    ]
    for place, node in enumerate(front):
        graph.node.insert(place, node)
    onnx.checker.check_model(model)
    return model.SerializeToString()


class Supervisor:
    """What systemd does for a ``Type=notify`` unit with a watchdog."""

    def __init__(self, bench: Bench, path: Path) -> None:
        self._bench = bench
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.1)
        self.process = bench.start()
        self.ended_count = 0
        self._due_s: float | None = None

    def turn(self) -> None:
        """Hear the agent; where it is silent for too long, end it and start it anew."""
        try:
            said = self._socket.recv(4096).decode()
        except TimeoutError:
            said = ""
        if said.startswith(("READY=1", "WATCHDOG=1")):
            self._due_s = time.monotonic() + WATCHDOG_S
        if self._due_s is not None and time.monotonic() > self._due_s:
            assert self.process.poll() is None, "it ended by itself"
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            self.ended_count += 1
            self._due_s = None
            self.process = self._bench.start()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_S * 1e6)))
    return path


def test_a_model_that_hangs_in_its_trial_is_ended_and_the_old_one_answers_again(
    installed: Bench, notify: Path
) -> None:
    bench = installed
    bench.config.write_text(
        bench.config.read_text().replace("trial_s = 1\n", "trial_s = 25\nrestarts_max = 0\n")
    )
    np.save(bench.home / "frames" / WHITE, np.full((32, 32), 255, np.uint8))
    done = bench.install(bench.bundle("2.0.0", model=hangs_on_white()))
    assert done.returncode == 0, done.stderr
    assert "goes on trial" in done.stdout
    supervisor = Supervisor(bench, notify)
    until_s = time.monotonic() + 40
    while ("left", "B", "2.0.0") not in bench.facts():
        assert time.monotonic() < until_s, (bench.home / "agent.log").read_text()
        supervisor.turn()
    assert supervisor.ended_count == 1
    left = len(bench.predictions())

    def white_is_answered() -> bool:
        return any(line["frame"] == WHITE for line in bench.predictions()[left:])

    while not white_is_answered():
        assert time.monotonic() < until_s, (bench.home / "agent.log").read_text()
        supervisor.turn()
    assert {line["model_version"] for line in bench.predictions()[left:]} == {"1.0.0"}
    status = bench.status()
    assert (status["model_version"], status["active_slot"]) == ("1.0.0", "A")
    assert supervisor.ended_count == 1, "and is left alone from here on"
    supervisor.close()
