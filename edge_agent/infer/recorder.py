"""The recorder thread: drains answers, writes predictions, closes telemetry and drift windows.

It is the only thread that touches the disk on behalf of inference. What it finds it posts to the
loop; if it hangs, inference goes on and the oldest answers are dropped and counted.
"""

from __future__ import annotations

import math
import resource
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.clock import SystemClock
from edge_agent.drift.events import DriftEvent
from edge_agent.infer.drift_watch import DriftWatch
from edge_agent.infer.engine import Answer, InferenceEngine
from edge_agent.infer.predictions import PredictionsFile
from edge_contract.sketch import DriftSketch
from edge_contract.telemetry import LatencyHistogram

DRAIN_PERIOD_S = 0.1
_THERMAL = Path("/sys/class/thermal/thermal_zone0/temp")


class WindowClosed(msgspec.Struct, frozen=True):
    """One telemetry window of one version: the fields of ``TelemetrySummary`` that it knows."""

    ts: float
    model_version: str
    fields: dict[str, Any]


class SketchClosed(msgspec.Struct, frozen=True):
    """One drift window of one version."""

    ts: float
    model_version: str
    window_s: float
    sketch: DriftSketch


class DriftFound(msgspec.Struct, frozen=True):
    """The drift monitor of a version found something."""

    ts: float
    model_version: str
    event: DriftEvent


class TroubleFound(msgspec.Struct, frozen=True):
    """Something stands in the recorder's own way; reported once a kind."""

    ts: float
    model_version: str
    name: str
    text: str


class Answered(msgspec.Struct, frozen=True):
    """Outcomes since the last drain, for the trial judge: latencies (ms) and failures."""

    digest: str
    infer_ms: tuple[float, ...]
    errors_count: int


RecorderEvent = WindowClosed | SketchClosed | DriftFound | TroubleFound | Answered


class _Window(msgspec.Struct):
    """Counts of the telemetry window that is open."""

    model_version: str
    begin_s: float
    frames_count: int = 0
    errors_count: int = 0
    rejected_count: int = 0
    infer: LatencyHistogram = msgspec.field(default_factory=LatencyHistogram)
    preprocess: LatencyHistogram = msgspec.field(default_factory=LatencyHistogram)
    classes: Counter[int] = msgspec.field(default_factory=Counter)
    class_total: int = 0
    dropped_before: int = 0
    offline: bool = False


class Recorder:
    """Owns the recorder thread.

    Args:
        engine: whose answers to drain.
        predictions: where each answer is written, or None.
        drift: watches samples, or None where drift is off.
        window_s, drift_window_s: lengths of the telemetry and the drift windows; the loop may set
            them while it runs.
        post: receives every ``RecorderEvent``, from the recorder thread.
        clock: the device's clocks.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        predictions: PredictionsFile | None,
        drift: DriftWatch | None,
        *,
        window_s: float,
        drift_window_s: float,
        post: Callable[[RecorderEvent], None],
        clock: SystemClock,
    ) -> None:
        self._engine = engine
        self._predictions = predictions
        self._drift = drift
        self.window_s = window_s
        self.drift_window_s = drift_window_s
        self._post = post
        self._clock = clock
        self._window: _Window | None = None
        self._drift_begin_s = clock.monotonic_s()
        self._reported: set[str] = set()
        self._dropped_told = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self.offline = True
        """Set by the loop; a window that saw it true says so."""
        self.latency_p95_ms: float | None = None
        """Of the last closed window, else of the first while it is open, for ``status``."""
        self._closed_one = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Drain what is left, close the windows, save the drift state."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(DRAIN_PERIOD_S):
            self._drain_on()
        self._drain_on()
        self._close_window()
        if self._drift is not None:
            self._close_sketch()
            self._drift.save()

    def _drain_on(self) -> None:
        """``drain``, whatever happens: without this thread no trial would ever end."""
        try:
            self.drain()
        except Exception as error:  # noqa: BLE001
            self._report("recorder-failed", f"some answers were not recorded: {error!r}")

    def drain(self) -> None:
        """Take every answer that waits; called by the thread, and by tests."""
        batch: list[Answer] = []
        while self._engine.answers:
            batch.append(self._engine.answers.popleft())
        for answer in batch:
            self._count(answer)
        if self._predictions is not None and batch:
            trouble = self._predictions.write(batch)
            if trouble:
                self._report("predictions_unwritable", trouble)
        self._post_outcomes(batch)
        now_s = self._clock.monotonic_s()
        if self._window and now_s - self._window.begin_s >= self.window_s:
            self._close_window()
        elif self._window and batch and not self._closed_one:
            self.latency_p95_ms = self._window.infer.quantile_ms(0.95)
        if self._drift is None:
            return
        for answer in batch:
            self._watch(self._drift, answer)
        if now_s - self._drift_begin_s >= self.drift_window_s:
            self._close_sketch()
            self._drift.save()

    def _count(self, answer: Answer) -> None:
        window = self._window
        if window is None or window.model_version != answer.version:
            self._close_window()
            window = self._window = _Window(
                answer.version,
                self._clock.monotonic_s(),
                dropped_before=self._dropped_told,
            )
        window.offline = window.offline or self.offline
        window.frames_count += 1
        prediction = answer.prediction
        if prediction is None:
            if answer.refused:
                window.rejected_count += 1
            else:
                window.errors_count += 1
            return
        window.infer.observe(prediction.infer_ms)
        window.preprocess.observe(prediction.preprocess_ms)
        if prediction.class_id is not None:
            window.classes[prediction.class_id] += 1
            window.class_total = max(window.class_total, len(prediction.judged))

    def _watch(self, drift: DriftWatch, answer: Answer) -> None:
        for event in drift.observe(answer):
            self._post(DriftFound(answer.ts, answer.version, event))
        for name, text in drift.take_troubles():
            self._report(name, text)

    def _post_outcomes(self, batch: list[Answer]) -> None:
        for digest in {answer.digest for answer in batch}:
            mine = [a for a in batch if a.digest == digest]
            times = tuple(a.prediction.infer_ms for a in mine if a.prediction is not None)
            errors = sum(a.prediction is None and not a.refused for a in mine)
            self._post(Answered(digest, times, errors))
        controls: dict[str, list[float]] = {}
        while self._engine.controls:
            digest, infer_ms = self._engine.controls.popleft()
            controls.setdefault(digest, []).append(infer_ms)
        for digest, times_ms in controls.items():
            self._post(Answered(digest, tuple(times_ms), 0))

    def _close_window(self) -> None:
        window, self._window = self._window, None
        if window is None or not window.frames_count:
            return
        # From the end of the window before: what was lost while none was open counts as well.
        dropped_count = self._dropped_told = (
            self._engine.frames_dropped_count + self._engine.answers_lost_count
        )
        preprocess_p95_ms = window.preprocess.quantile_ms(0.95)
        fields: dict[str, Any] = {
            "window_s": self._clock.monotonic_s() - window.begin_s,
            "frames_count": window.frames_count,
            "frames_dropped_count": dropped_count - window.dropped_before,
            "errors_count": window.errors_count,
            "rejected_count": window.rejected_count,
            "preprocess_latency_p95_ms": preprocess_p95_ms,
            "class_counts": tuple(window.classes[k] for k in range(window.class_total)),
            "memory_rss_mb": _resident_mb(),
            "cpu_temp_c": _temperature_c(),
            "offline": window.offline,
            **window.infer.summary_fields(),
        }
        self.latency_p95_ms, self._closed_one = window.infer.quantile_ms(0.95), True
        self._post(WindowClosed(self._clock.wall_s(), window.model_version, fields))

    def _close_sketch(self) -> None:
        now_s = self._clock.monotonic_s()
        window_s, self._drift_begin_s = now_s - self._drift_begin_s, now_s
        if self._drift is None:
            return
        for version, sketch in self._drift.take_sketches():
            self._post(SketchClosed(self._clock.wall_s(), version, window_s, sketch))

    def _report(self, name: str, text: str) -> None:
        if name not in self._reported:
            self._reported.add(name)
            version = self._window.model_version if self._window else ""
            self._post(TroubleFound(self._clock.wall_s(), version, name, text))


def _resident_mb() -> float:
    """Largest resident size of this process so far, in MB (Linux counts in KB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def _temperature_c() -> float | None:
    """The first thermal zone; None where the board has none."""
    try:
        value = int(_THERMAL.read_text()) / 1000.0
    except (OSError, ValueError):
        return None
    return value if math.isfinite(value) else None
