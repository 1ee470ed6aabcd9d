"""What the agent adds to a bare ``session.run``: preprocessing, answer, telemetry and drift.

Two loops over the same frames and the same onnxruntime session settings, in turns (A B A B …),
each turn timed as a whole, so that whatever the machine does meets both. A: ``session.run`` on
inputs made beforehand. B: the agent's own path from a raw frame to a closed telemetry window, the
recorder's work counted in full though it runs on another thread. Printed are medians per frame and
their ratio.

``python benchmarks/agent_overhead.py [--frames N] [--json]``
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.made_classifier import (  # noqa: E402
    golden_of,
    manifest_of,
    session_of,
    with_head,
)
from edge_agent.clock import SystemClock  # noqa: E402
from edge_agent.drift.monitor import DriftSettings  # noqa: E402
from edge_agent.infer.drift_watch import DriftWatch  # noqa: E402
from edge_agent.infer.engine import InferenceEngine, answer  # noqa: E402
from edge_agent.infer.model import LoadedModel  # noqa: E402
from edge_agent.infer.recorder import Recorder  # noqa: E402
from edge_agent.infer.source import DirectorySource, Frame  # noqa: E402
from edge_contract.model import DRIFT_REFERENCE_FILE  # noqa: E402
from edge_runtime.features import extract, feature_names  # noqa: E402
from edge_runtime.onnx_session import session_options  # noqa: E402
from edge_runtime.reference import build_reference  # noqa: E402

SIDE_PX = 96
TURNS = 15
TARGET_MS = 1.0


def network(layers: int) -> bytes:
    """A convolutional classifier whose cost grows with ``layers``."""
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "frame"
    for number in range(layers):
        shape = (16, 3 if number == 0 else 16, 3, 3)
        weights.append(
            numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), f"w{number}")
        )
        step = 2 if number < 2 else 1
        nodes.append(
            helper.make_node(
                "Conv", [name, f"w{number}"], [f"c{number}"], pads=[1] * 4, strides=[step] * 2
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        name = f"r{number}"
    return with_head(nodes, weights, name, channels=16, side_px=SIDE_PX, rng=rng)


def bare_session(data: bytes) -> ort.InferenceSession:
    """The session as the agent opens it, without the agent."""
    return ort.InferenceSession(data, session_options("float32"), ["CPUExecutionProvider"])


def sized_network() -> bytes:
    """The smallest of these networks that takes at least ``TARGET_MS`` here."""
    batch = np.zeros((1, 3, SIDE_PX, SIDE_PX), np.float32)
    for layers in range(2, 60, 2):
        data = network(layers)
        session = bare_session(data)
        times_ms = []
        for _ in range(40):
            begin = time.perf_counter()
            session.run(None, {"frame": batch})
            times_ms.append((time.perf_counter() - begin) * 1e3)
        if statistics.median(times_ms) >= TARGET_MS:
            return data
    return data


def loaded_model(data: bytes, directory: Path, frames: np.ndarray) -> LoadedModel:
    """The network as a version in a slot, with a drift reference beside it."""
    manifest = manifest_of("bench", "1.0.0", side_px=SIDE_PX, target="here", scheme="float32")
    session = session_of(data, manifest)
    scores = session.scores(frames)
    rows = [extract(frame, row) for frame, row in zip(frames, scores, strict=True)]
    reference = build_reference(
        np.stack([features for features, _ in rows]),
        np.array([class_id for _, class_id in rows]),
        feature_names(),
        classes=10,
    )
    (directory / DRIFT_REFERENCE_FILE).write_bytes(reference.encode())
    golden = golden_of(session, frames[:1], tolerance_abs=0)
    return LoadedModel("sha256:" + "0" * 64, "A", directory, manifest, session, golden)


def measure(frames_count: int) -> dict[str, Any]:
    """Medians per frame of both loops."""
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 255, (64, SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
    data = sized_network()
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as scratch:
        model = loaded_model(data, Path(scratch), frames)
        engine = InferenceEngine(DirectorySource(Path(scratch), loop=False), 1.0, clock)
        recorder = Recorder(
            engine,
            None,
            DriftWatch(Path(scratch) / "drift", DriftSettings()),
            window_s=1.0,
            drift_window_s=3600.0,
            post=lambda event: None,
            clock=clock,
        )
        bare = bare_session(data)
        batches = [model.session.preprocessor(frame) for frame in frames]
        named = [Frame(str(n), frame, colour="BGR") for n, frame in enumerate(frames)]
        bare_us, agent_us = [], []
        preprocess_ms: list[float] = []
        for _ in range(TURNS):
            begin = time.perf_counter()
            for number in range(frames_count):
                bare.run(None, {"frame": batches[number % 64]})
            bare_us.append((time.perf_counter() - begin) / frames_count * 1e6)
            begin = time.perf_counter()
            for number in range(frames_count):
                told = answer(model, named[number % 64], clock.wall_s, clock.monotonic_s)
                engine.answers.append(told)
                if told.prediction is not None:
                    preprocess_ms.append(told.prediction.preprocess_ms)
                if number % 10 == 9:  # the recorder drains ten times a second
                    recorder.drain()
            agent_us.append((time.perf_counter() - begin) / frames_count * 1e6)
    differences = [b - a for a, b in zip(bare_us, agent_us, strict=True)]
    ratios = [b / a for a, b in zip(bare_us, agent_us, strict=True)]
    return {
        "machine": platform.machine(),
        "frames_per_turn": frames_count,
        "turns": TURNS,
        "bare_us_per_frame": round(statistics.median(bare_us), 1),
        "agent_us_per_frame": round(statistics.median(agent_us), 1),
        "added_us_per_frame": round(statistics.median(differences), 1),
        "preprocessing_us_per_frame": round(statistics.median(preprocess_ms) * 1e3, 1),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_min": round(min(ratios), 4),
        "ratio_max": round(max(ratios), 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.frames)
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"measured on this machine ({figures['machine']}), medians of {TURNS} turns:")
    print(f"  bare session.run        {figures['bare_us_per_frame']:8.1f} us a frame")
    print(f"  the agent, all of it    {figures['agent_us_per_frame']:8.1f} us a frame")
    print(
        f"  ratio {figures['ratio_median']:.3f} ({figures['ratio_min']:.3f} to"
        f" {figures['ratio_max']:.3f}), {figures['added_us_per_frame']:.1f} us added; the"
        f" preprocessing of a {SIDE_PX}x{SIDE_PX} colour frame is"
        f" {figures['preprocessing_us_per_frame']:.1f} of it"
    )


if __name__ == "__main__":
    main()
