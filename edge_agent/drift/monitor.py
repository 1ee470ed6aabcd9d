"""The drift monitor: what the agent calls with every sample.

It thins the samples to a fixed rate, commissions the device, states the deployment gap, then
watches for drift and keeps the sketch of the current window. Pure: time is an argument, findings
are return values, and state is bytes.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edge_agent.drift.commission import (
    CORRELATED,
    MIN_SAMPLES,
    Commissioning,
    deployment_gap,
)
from edge_agent.drift.detectability import small_reference_warning
from edge_agent.drift.detector import DriftDetector, alarm_threshold, reference_digest
from edge_agent.drift.events import (
    Commissioned,
    DeploymentGap,
    DriftAlarm,
    DriftEvent,
    Recovered,
)
from edge_agent.drift.state import FRESH_STATE_HINT, decode_state
from edge_agent.drift.window import SketchWindow
from edge_contract.errors import ContractError
from edge_contract.reference import DriftReference
from edge_contract.sketch import DriftSketch
from edge_runtime.reference import Binner

Phase = Literal["commissioning", "detecting"]


class DriftSettings(msgspec.Struct, frozen=True):
    """How a device watches for drift.

    Attributes:
        sample_hz: most samples a second to look at. **The bound on false alarms needs samples
            that do not resemble their predecessors.** Frames of one scene do: on video held 5 to
            30 frames a scene every detector tried raised hundreds of false alarms. Set it so
            that at most one sample falls into a scene, 1 Hz or less for most cameras, and lower
            it when commissioning warns. Slow cycles, such as day and night, are not cured by it.
        alarms_per_device_year: false alarms allowed in a year of running at ``sample_hz``.
        commission_samples: samples of the device's own reference, from 100; 5,000 are good.
        realarm_s: while drift lasts, alarms are reported once in so long; the others are counted.
            After so long without any, the device has recovered.

    Raises:
        ValueError: from the constructor, for a value that could silence the alarms.
    """

    sample_hz: float = 1.0
    alarms_per_device_year: float = 1.0
    commission_samples: int = 5000
    realarm_s: float = 3600.0

    def __post_init__(self) -> None:
        for name in ("sample_hz", "alarms_per_device_year", "realarm_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"drift setting {name}: expected a number above 0, got {value}")
        if self.commission_samples < MIN_SAMPLES:
            raise ValueError(
                f"drift setting commission_samples: expected at least {MIN_SAMPLES}, "
                f"got {self.commission_samples}"
            )
        _ = self.threshold

    @property
    def threshold(self) -> float:
        """A, the least average run length to a false alarm, in samples."""
        return alarm_threshold(
            alarms_per_device_year=self.alarms_per_device_year, samples_per_s=self.sample_hz
        )

    @property
    def realarm_samples(self) -> int:
        """``realarm_s`` in samples: never sooner, and it outlives a restart."""
        return max(1, math.ceil(self.realarm_s * self.sample_hz))


class DriftStatus(msgspec.Struct, frozen=True):
    """What ``edge-agent status`` says about drift.

    Attributes:
        phase: ``commissioning`` or ``detecting``.
        samples: samples counted towards commissioning; the target once done.
        samples_target: samples that commissioning takes.
        drifting: an alarm was raised and no recovery followed.
        alarms: alarms since commissioning, reported or kept quiet.
        windows: sketches taken so far.
        warnings: what weakens the promise on this device.
    """

    phase: Phase
    samples: int
    samples_target: int
    drifting: bool
    alarms: int
    windows: int
    warnings: tuple[str, ...]


class _State(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    bundle_reference: str
    commissioning: bytes
    commissioned: bytes
    detector: bytes
    window: bytes
    windows: int
    warnings: tuple[str, ...]
    drifting: bool
    alarms: int
    repeats: int
    since_alarm: int
    since_report: int


class DriftMonitor:
    """Watches one model version's samples on one device.

    Args:
        reference: the drift reference of the bundle.
        settings: rates and sizes.
        state: what ``state_bytes`` gave before a restart, for the same reference.

    Raises:
        ContractError: the state is damaged or belongs to another reference. Start again without
            it and report it: the device then commissions itself anew.
    """

    def __init__(
        self, reference: DriftReference, settings: DriftSettings, state: bytes | None = None
    ) -> None:
        self.reference = reference
        self.settings = settings
        self._binner = Binner(reference)
        self._window = SketchWindow(reference)
        self._commissioning = Commissioning(reference, settings.commission_samples)
        self._detector: DriftDetector | None = None
        self._next_due_s = -math.inf
        self._windows = 0
        self._warnings: tuple[str, ...] = ()
        self._drifting = False
        self._alarms = 0
        self._repeats = 0
        self._since_alarm = 0
        self._since_report = 0
        if state is not None:
            self._restore(state)

    def due(self, monotonic_s: float) -> bool:
        """Whether ``observe`` would take a sample now: ask before computing features."""
        return monotonic_s >= self._next_due_s

    def observe(
        self, features: npt.NDArray[np.float64], class_id: int, monotonic_s: float
    ) -> list[DriftEvent]:
        """Takes one sample, unless the last one is too recent.

        Args:
            features: float64 ``[F]``, as ``edge_runtime.features.extract`` gives them.
            class_id: the predicted class.
            monotonic_s: a clock that never goes back while the process runs.

        Returns:
            what was found, mostly nothing.

        Raises:
            ValueError: another number of features than the reference has.
        """
        if not self.due(monotonic_s):
            return []
        self._plan_next(monotonic_s)
        bins = self._binner.bins(features, class_id)
        self._window.add(features, bins)
        if self._detector is not None:
            return self._detect(self._detector, bins)
        self._commissioning.add(bins)
        return self._finish_commissioning() if self._commissioning.done else []

    def take_sketch(self) -> DriftSketch:
        """The sketch of the samples since the last take, and begins the next window."""
        self._windows += 1
        return self._window.take()

    def status(self) -> DriftStatus:
        """Where the monitor stands."""
        detecting = self._detector is not None
        target = self._detector.reference.n if self._detector else self._commissioning.n_target
        return DriftStatus(
            phase="detecting" if detecting else "commissioning",
            samples=target if detecting else self._commissioning.n,
            samples_target=target,
            drifting=self._drifting,
            alarms=self._alarms,
            windows=self._windows,
            warnings=self._warnings,
        )

    def state_bytes(self) -> bytes:
        """All that a restart needs, a few kilobytes; the thinning starts afresh."""
        detector = self._detector
        return msgspec.msgpack.encode(
            _State(
                bundle_reference=reference_digest(self.reference),
                commissioning=b"" if detector else self._commissioning.state_bytes(),
                commissioned=detector.reference.encode() if detector else b"",
                detector=detector.state_bytes() if detector else b"",
                window=self._window.state_bytes(),
                windows=self._windows,
                warnings=self._warnings,
                drifting=self._drifting,
                alarms=self._alarms,
                repeats=self._repeats,
                since_alarm=self._since_alarm,
                since_report=self._since_report,
            )
        )

    def _restore(self, data: bytes) -> None:
        state = decode_state(data, _State, "drift monitor state")
        mine = reference_digest(self.reference)
        if state.bundle_reference != mine:
            raise ContractError(
                f"drift monitor state: expected the state for reference {mine}, "
                f"got one for {state.bundle_reference}",
                hint=FRESH_STATE_HINT,
            )
        self._window.restore(state.window)
        if state.commissioned:
            commissioned = DriftReference.decode(state.commissioned)
            if commissioned.edges_digest != self.reference.edges_digest:
                raise ContractError(
                    f"drift monitor state: expected counts on edges "
                    f"{self.reference.edges_digest}, got {commissioned.edges_digest}",
                    hint=FRESH_STATE_HINT,
                )
            self._detector = DriftDetector(commissioned, threshold=self.settings.threshold)
            self._detector.restore(state.detector)
        else:
            self._commissioning.restore(state.commissioning)
        self._windows = state.windows
        self._warnings = state.warnings
        self._drifting = state.drifting
        self._alarms = state.alarms
        self._repeats = state.repeats
        self._since_alarm = state.since_alarm
        self._since_report = state.since_report

    def _plan_next(self, now_s: float) -> None:
        # Keeps to the grid while samples come in time, so that the mean rate is sample_hz and
        # never above it; after a pause the grid starts anew.
        period_s = 1 / self.settings.sample_hz
        on_time = now_s - self._next_due_s < period_s
        self._next_due_s = (self._next_due_s if on_time else now_s) + period_s

    def _finish_commissioning(self) -> list[DriftEvent]:
        commissioned = self._commissioning.commissioned()
        self._detector = DriftDetector(commissioned, threshold=self.settings.threshold)
        self._warnings = tuple(
            warning
            for warning in (
                small_reference_warning(self._detector),
                _correlation_warning(self._commissioning.lag_correlation(), self.settings),
            )
            if warning
        )
        gap = deployment_gap(self.reference, commissioned)
        return [
            Commissioned(n=commissioned.n, warnings=self._warnings),
            DeploymentGap(psi=gap.psi, ks=gap.ks, worst=gap.worst),
        ]

    def _detect(self, detector: DriftDetector, bins: npt.NDArray[np.int64]) -> list[DriftEvent]:
        alarm = detector.update(bins)
        if self._drifting:
            self._since_alarm += 1
            self._since_report += 1
        if alarm is None:
            if self._drifting and self._since_alarm >= self.settings.realarm_samples:
                self._drifting = False
                return [Recovered(samples=self._since_alarm)]
            return []
        self._alarms += 1
        self._since_alarm = 0
        if self._drifting and self._since_report < self.settings.realarm_samples:
            self._repeats += 1
            return []
        event = DriftAlarm(
            features=alarm.features,
            score_log=alarm.score_log,
            samples_since_reset=alarm.samples_since_reset,
            onset_samples_ago=alarm.onset_samples_ago,
            repeats=self._repeats,
        )
        self._drifting = True
        self._repeats = 0
        self._since_report = 0
        return [event]


def _correlation_warning(correlation: dict[str, float], settings: DriftSettings) -> str:
    name = max(correlation, key=lambda key: correlation[key], default="")
    if not name or correlation[name] <= CORRELATED:
        return ""
    return (
        f"samples resemble the ones before them ({name}: lag-1 correlation "
        f"{correlation[name]:.2f}), so the bound on false alarms does not hold; set sample_hz "
        f"below {settings.sample_hz:g} until one sample a scene is left"
    )
