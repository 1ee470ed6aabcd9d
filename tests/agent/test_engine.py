"""Inference, its source and its recorder: odd frames, odd drivers, swaps between two frames."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from edge_agent.clock import SystemClock
from edge_agent.infer import engine as engine_module
from edge_agent.infer.engine import Answer, InferenceEngine, answer
from edge_agent.infer.model import LoadedModel
from edge_agent.infer.recorder import (
    Answered,
    Recorder,
    RecorderEvent,
    TroubleFound,
    WindowClosed,
)
from edge_agent.infer.source import DirectorySource, Frame, RawFrame
from edge_contract.golden import GoldenVectors
from edge_runtime.golden import to_tensor
from edge_runtime.session import ModelSession, Prediction
from tests.agent.bundles import MODEL, manifest

FRAME = np.zeros((32, 32), np.uint8)


def digits_model(version: str) -> LoadedModel:
    model = manifest(version)
    # The labels of two versions differ, so that an answer shows whose it has.
    model = msgspec.structs.replace(model, labels=[f"{n} of {version}" for n in model.labels])
    session = ModelSession(MODEL.read_bytes(), model, model.variants[0])
    scores = np.zeros((1, 10), np.float32)
    golden = GoldenVectors(
        frames=to_tensor(FRAME[None]), scores=to_tensor(scores), tolerance_abs=1e-3
    )
    return LoadedModel("sha256:" + version, "A", Path("/none"), model, session, golden)


class Endless:
    """A source that numbers its frames; ``fails_at`` makes the driver fail there, once."""

    def __init__(self, *, live: bool = False, fails_at: int = -1) -> None:
        self.live = live
        self.fails_at = fails_at
        self.count = 0

    def frames(self) -> Iterator[Frame]:
        while True:
            self.count += 1
            if self.count == self.fails_at:
                raise RuntimeError("the driver is gone")
            yield Frame(str(self.count), FRAME)


def wait_for(ready: Callable[[], object], timeout_s: float = 20.0) -> None:
    until = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < until, "in vain"
        time.sleep(0.01)


def test_a_swap_drops_no_frame_and_none_is_answered_by_a_half_loaded_model() -> None:
    models = [digits_model(f"1.{number}.0") for number in range(3)]
    engine = InferenceEngine(Endless(), 1000.0, SystemClock())
    engine.swap(models[0])
    engine.start()
    for number in range(60):
        engine.swap(models[number % 3])
        time.sleep(0.01)
    wait_for(lambda: engine.answered_count > 200)
    engine.stop()
    answers = list(engine.answers)
    assert [int(a.name) for a in answers] == list(range(1, len(answers) + 1))
    assert all(a.prediction is not None and not a.error for a in answers)
    # Version, digest and labels of one answer are always those of one model.
    assert all(a.digest == f"sha256:{a.version}" for a in answers)
    assert all(a.label.endswith(f" of {a.version}") for a in answers)
    assert engine.frames_dropped_count == 0


def test_a_version_that_was_swapped_out_is_freed_without_another_frame() -> None:
    source = Endless()
    engine = InferenceEngine(source, 0.1, SystemClock())  # the next frame comes in ten seconds
    old = digits_model("1.0.0")
    engine.swap(old)
    engine.start()
    engine._offer(Frame("now", FRAME))
    wait_for(lambda: engine.answered_count == 1)
    freed = weakref.ref(old)
    engine.swap(digits_model("2.0.0"))
    del old
    wait_for(lambda: freed() is None, timeout_s=5.0)
    engine.stop()


def test_without_a_model_files_wait_and_nothing_is_lost() -> None:
    engine = InferenceEngine(Endless(), 1000.0, SystemClock())
    engine.start()
    time.sleep(0.3)
    assert engine.answered_count == 0
    engine.swap(digits_model("1.0.0"))
    wait_for(lambda: engine.answered_count > 5)
    engine.stop()
    assert engine.answers[0].name == "1"


def test_a_camera_drops_its_oldest_frames_and_counts_them() -> None:
    model = digits_model("1.0.0")
    release = threading.Event()

    class Slow:
        def predict(self, pixels: RawFrame) -> Prediction:
            release.wait(5.0)
            return model.session.predict(pixels)

    slow = LoadedModel(
        model.digest, "A", model.directory, model.manifest, cast(Any, Slow()), model.golden
    )
    engine = InferenceEngine(Endless(live=True), 500.0, SystemClock())
    engine.swap(slow)
    engine.start()
    wait_for(lambda: engine.frames_dropped_count > 3)
    release.set()
    wait_for(lambda: engine.answered_count > 8)
    engine.stop()
    names = [int(a.name) for a in engine.answers]
    assert names == sorted(names)


def test_a_driver_that_fails_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "SOURCE_RETRY_S", 0.05)
    engine = InferenceEngine(Endless(fails_at=5), 1000.0, SystemClock())
    engine.swap(digits_model("1.0.0"))
    engine.start()
    wait_for(lambda: engine.answered_count > 20)
    engine.stop()
    (trouble,) = [a for a in engine.answers if a.prediction is None]
    assert "the driver is gone" in trouble.error


@pytest.mark.parametrize(
    "pixels",
    [
        np.array(5, np.uint8),
        np.zeros((0, 0), np.uint8),
        np.zeros((0, 32, 3), np.uint8),
        np.zeros((1, 1, 1, 32, 32), np.uint8),
        np.array([["a"]]),
        np.zeros(4, [("a", "i4")]),
        np.full((32, 32), np.nan),
        np.zeros((32, 32), np.complex64),
        np.zeros((32, 32, 2), np.uint8),
    ],
)
@pytest.mark.parametrize("colour", ["AS_IS", "BGR", "GRAY"])
def test_no_frame_however_odd_ends_the_thread(pixels: RawFrame, colour: Any) -> None:
    model = digits_model("1.0.0")
    odd = answer(model, Frame("odd", pixels, colour=colour), lambda: 0.0, lambda: 0.0)
    assert odd.prediction is None
    assert odd.error
    assert "\n" not in odd.error


def test_files_that_are_no_frames_are_named_and_skipped(tmp_path: Path) -> None:
    np.savez(tmp_path / "archive", a=FRAME)
    (tmp_path / "archive.npz").rename(tmp_path / "0.npy")
    (tmp_path / "1.npy").write_bytes(b"\x93NUMPY\x01\x00\x04\x00((((")
    huge = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,99), }".ljust(117)
    (tmp_path / "2.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + huge + b"\n")
    (tmp_path / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (tmp_path / "4.npy").mkdir()
    np.save(tmp_path / "5.npy", FRAME)
    frames = list(DirectorySource(tmp_path, loop=False).frames())
    assert [frame.name for frame in frames] == [f"{n}.npy" if n != 3 else "3.png" for n in range(6)]
    assert all(frame.pixels is None and frame.error for frame in frames[:5])
    assert frames[5].pixels is not None


class HandClock(SystemClock):
    """Moved by hand; its wall may be any year."""

    def __init__(self, wall_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.base_s = wall_s

    def wall_s(self) -> float:
        return self.base_s + self.now_s

    def monotonic_s(self) -> float:
        return self.now_s


def made_answer(version: str, *, infer_ms: float = 1.0, error: str = "") -> Answer:
    scores = np.eye(10, dtype=np.float32)[3]
    prediction = None if error else Prediction(scores, scores, 3, 0.9, 0.1, infer_ms)
    return Answer(
        ts=0.0,
        monotonic_s=0.0,
        name="f",
        digest=f"sha256:{version}",
        version=version,
        slot="A",
        directory=Path("/none"),
        frame=FRAME,
        prediction=prediction,
        error=error,
    )


class Recording:
    """A recorder that is drained by hand."""

    def __init__(self, clock: HandClock, drift: Any = None) -> None:
        self.clock = clock
        self.engine = InferenceEngine(Endless(), 1.0, clock)
        self.posted: list[RecorderEvent] = []
        self.recorder = Recorder(
            self.engine,
            None,
            drift,
            window_s=10.0,
            drift_window_s=60.0,
            post=self.posted.append,
            clock=clock,
        )

    def take(self, *answers: Answer) -> None:
        self.engine.answers.extend(answers)
        self.recorder.drain()

    def windows(self) -> list[WindowClosed]:
        return [event for event in self.posted if isinstance(event, WindowClosed)]


@pytest.mark.parametrize("wall_s", [0.0, 2**31 - 5.0, 4e9])
def test_a_window_belongs_to_one_version_in_any_year(wall_s: float) -> None:
    clock = HandClock(wall_s)
    recording = Recording(clock)
    old = made_answer("1.0.0")
    recording.take(old, old, made_answer("1.1.0", error="broken"))
    (first,) = recording.windows()
    assert (first.model_version, first.fields["frames_count"]) == ("1.0.0", 2)
    clock.now_s = 10.0
    recording.take(made_answer("1.1.0"))
    second = recording.windows()[1]
    assert second.model_version == "1.1.0"
    assert (second.fields["frames_count"], second.fields["errors_count"]) == (2, 1)
    assert second.fields["class_counts"][3] == 1
    assert second.ts == wall_s + 10.0


def test_outcomes_are_told_apart_by_version() -> None:
    recording = Recording(HandClock())
    recording.take(
        made_answer("1.0.0", infer_ms=2.0),
        made_answer("1.1.0", infer_ms=9.0),
        made_answer("1.1.0", error="broken"),
    )
    told = {e.digest: e for e in recording.posted if isinstance(e, Answered)}
    assert told["sha256:1.0.0"].infer_ms == (2.0,)
    assert (told["sha256:1.1.0"].infer_ms, told["sha256:1.1.0"].errors_count) == ((9.0,), 1)


def test_drops_between_two_windows_are_counted_once() -> None:
    clock = HandClock()
    recording = Recording(clock)
    dropped: list[int] = []
    for lost in (3, 0, 4):
        recording.engine.frames_dropped_count += lost  # while no window is open
        recording.take(made_answer("1.0.0"))
        clock.now_s += 10.0
        recording.take()
        dropped.append(recording.windows()[-1].fields["frames_dropped_count"])
    assert dropped == [3, 0, 4]


def test_answers_that_nobody_took_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "RESULTS_MAX", 10)
    engine = InferenceEngine(Endless(), 1000.0, SystemClock())
    engine.answers = type(engine.answers)(maxlen=10)
    engine.swap(digits_model("1.0.0"))
    engine.start()
    wait_for(lambda: engine.answered_count > 30)
    engine.stop()
    assert engine.answers_lost_count == engine.answered_count - 10


def test_a_drift_watch_that_fails_does_not_keep_a_trial_from_its_evidence() -> None:
    class Broken:
        def observe(self, answer: Answer) -> list[object]:
            raise ValueError("no such feature")

        def take_sketches(self) -> list[object]:
            return []

        def save(self) -> None:
            return None

    clock = SystemClock()
    posted: list[RecorderEvent] = []
    engine = InferenceEngine(Endless(), 200.0, clock)
    recorder = Recorder(
        engine,
        None,
        cast(Any, Broken()),
        window_s=0.5,
        drift_window_s=60.0,
        post=posted.append,
        clock=clock,
    )
    engine.swap(digits_model("1.0.0"))
    engine.start()
    recorder.start()
    wait_for(lambda: sum(isinstance(event, WindowClosed) for event in posted) >= 2)
    engine.stop()
    recorder.stop()
    told = sum(len(event.infer_ms) for event in posted if isinstance(event, Answered))
    assert told == engine.answered_count
    (trouble,) = [event for event in posted if isinstance(event, TroubleFound)]
    assert "no such feature" in trouble.text
