"""The capture and inference threads. Neither ever waits for a disk or a network of ours.

``capture`` puts frames into a short queue; when inference is behind, a camera's oldest frame is
dropped and a file waits. ``infer`` takes one, reads the current model reference once, answers, and
appends the answer to a bounded deque that the recorder drains. Swapping a model is one assignment
between two frames: no frame is dropped by it, none is answered by a half-loaded model.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_agent.clock import SystemClock
from edge_agent.infer.model import LoadedModel
from edge_agent.infer.source import Frame, RawFrame, Source, in_colour
from edge_contract.errors import WherryError
from edge_runtime.errors import InputRefusedError
from edge_runtime.session import Prediction

QUEUE_FRAMES = 4
CONTROL_EVERY = 2
"""While a version is on trial, every so many-th frame is run by the version before as well."""
SOURCE_RETRY_S = 1.0
"""How long after a source has failed it is opened again."""
RESULTS_MAX = 20_000
"""Answers waiting for the recorder: minutes at camera rates. Beyond it the oldest are dropped."""


class Answer(msgspec.Struct, frozen=True):
    """What became of one frame. ``prediction`` is None where it was refused or failed."""

    ts: float
    monotonic_s: float
    name: str
    digest: str
    version: str
    slot: str
    directory: Path
    frame: RawFrame | None
    prediction: Prediction | None
    label: str = ""
    unsure: bool = False
    error: str = ""
    refused: bool = False


class InferenceEngine:
    """Owns the two threads and the reference to the model that answers.

    Args:
        source: where frames come from.
        rate_hz: how many frames a second to take from it.
        clock: the device's clocks.
    """

    def __init__(self, source: Source, rate_hz: float, clock: SystemClock) -> None:
        self._source = source
        self._period_s = 1.0 / rate_hz
        self._clock = clock
        self._model: LoadedModel | None = None
        self._control: LoadedModel | None = None
        self._capture_turns = 0
        self._infer_turns = 0
        self._frames: queue.Queue[Frame] = queue.Queue(QUEUE_FRAMES)
        self._stop = threading.Event()
        self.answers: deque[Answer] = deque(maxlen=RESULTS_MAX)
        self.controls: deque[tuple[str, float]] = deque(maxlen=RESULTS_MAX)
        self.frames_dropped_count = 0
        self.answered_count = 0
        self.answers_lost_count = 0
        """Answers that the recorder did not take in time."""
        self.source_ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._capture, name="capture", daemon=True),
            threading.Thread(target=self._infer, name="infer", daemon=True),
        ]

    @property
    def model(self) -> LoadedModel | None:
        """The model that answers the next frame."""
        return self._model

    def swap(self, model: LoadedModel | None, control: LoadedModel | None = None) -> None:
        """Let the next frame be answered by ``model``. Safe from any thread.

        Args:
            control: the version before, while ``model`` is on trial. In spare time it runs some of
                the same frames, so that the trial compares the two under the same load and heat;
                (digest, inference ms) of those runs go to ``controls``, their answers nowhere.
        """
        self._control = control
        self._model = model

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ask both threads to end and wait for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout_s)

    def _capture(self) -> None:
        while not self._stop.is_set():
            try:
                self._feed()
            except WherryError as error:
                self._offer(Frame("source", None, f"{error.message}; {error.hint}"))
                self._wait(SOURCE_RETRY_S)
                continue
            except Exception as error:  # noqa: BLE001
                # The thread's outermost edge: a driver that fails must not end inference for good.
                self._offer(Frame("source", None, f"the source failed: {error!r}"))
                self._wait(SOURCE_RETRY_S)
                continue
            self.source_ended.set()
            return

    @property
    def turns(self) -> tuple[int, ...]:
        """How often each thread came round; one that hangs in a driver or a model does not."""
        if self.source_ended.is_set():
            return (self._infer_turns,)
        return (self._capture_turns, self._infer_turns)

    def _wait(self, seconds: float) -> bool:
        """Wait in order; whether a stop was asked for."""
        until_s = self._clock.monotonic_s() + seconds
        while (left_s := until_s - self._clock.monotonic_s()) > 0:
            self._capture_turns += 1
            if self._stop.wait(min(left_s, 1.0)):
                return True
        return self._stop.is_set()

    def _feed(self) -> None:
        """Hand on the source's frames until it ends or a stop is asked for."""
        due_s = self._clock.monotonic_s()
        for frame in self._source.frames():
            # A source without a model has nobody to answer: wait rather than drop its frames.
            while self._model is None and not self._stop.wait(0.05):
                self._capture_turns += 1
                due_s = self._clock.monotonic_s()
            due_s += self._period_s
            wait_s = due_s - self._clock.monotonic_s()
            self._capture_turns += 1
            if self._wait(wait_s):
                return
            if wait_s < -1.0:  # far behind: do not race to catch up
                due_s = self._clock.monotonic_s()
            self._offer(frame)

    def _offer(self, frame: Frame) -> None:
        while not self._stop.is_set():
            self._capture_turns += 1
            try:
                self._frames.put(frame, block=not self._source.live, timeout=0.2)
                return
            except queue.Full:
                if self._source.live:
                    self._drop_oldest()

    def _drop_oldest(self) -> None:
        try:
            self._frames.get_nowait()
            self.frames_dropped_count += 1
        except queue.Empty:
            pass

    def _infer(self) -> None:
        while not self._stop.is_set():
            self._infer_turns += 1
            try:
                frame = self._frames.get(timeout=0.2)
            except queue.Empty:
                continue
            self._answer(frame)

    def _answer(self, frame: Frame) -> None:
        # A method of its own, so that between two frames nothing here keeps a model alive that was
        # swapped out.
        model = self._model
        if model is None:
            return
        if len(self.answers) == RESULTS_MAX:
            self.answers_lost_count += 1
        self.answers.append(answer(model, frame, self._clock.wall_s, self._clock.monotonic_s))
        self.answered_count += 1
        if self.answered_count % CONTROL_EVERY == 0 and self._frames.empty():
            self._run_control(frame)

    def _run_control(self, frame: Frame) -> None:
        control = self._control
        if control is None:
            return
        beside = answer(control, frame, self._clock.wall_s, self._clock.monotonic_s)
        if beside.prediction is not None:
            self.controls.append((control.digest, beside.prediction.infer_ms))


def answer(
    model: LoadedModel, frame: Frame, wall_s: Callable[[], float], monotonic_s: Callable[[], float]
) -> Answer:
    """Let ``model`` answer one frame; every trouble becomes part of the answer."""
    prediction: Prediction | None = None
    error = frame.error
    pixels: RawFrame | None = None
    refused = frame.pixels is None
    try:
        pixels = in_colour(frame, model.manifest.preprocess.colour)
        if pixels is not None:
            prediction = model.session.predict(pixels)
    except InputRefusedError as trouble:
        error, refused = trouble.message, True
    except WherryError as trouble:
        error = trouble.message
    # OpenCV's errors have no base of their own, and one odd frame must not end the thread.
    except Exception as trouble:  # noqa: BLE001
        error = " ".join(f"{type(trouble).__name__}: {trouble}".split())[:300]
    manifest = model.manifest
    label = ""
    if prediction is not None and prediction.class_id is not None:
        label = next(iter(manifest.labels[prediction.class_id :]), "")
    confidence = None if prediction is None else prediction.confidence
    return Answer(
        ts=wall_s(),
        monotonic_s=monotonic_s(),
        name=frame.name,
        digest=model.digest,
        version=model.version,
        slot=model.slot,
        directory=model.directory,
        frame=pixels,
        prediction=prediction,
        label=label,
        unsure=confidence is not None and confidence < manifest.min_confidence,
        error=error,
        refused=refused,
    )
