"""One drift monitor a model version, its state kept across restarts and roll-backs."""

from __future__ import annotations

from pathlib import Path

from edge_agent.drift.events import DriftEvent
from edge_agent.drift.monitor import DriftMonitor, DriftSettings
from edge_agent.infer.engine import Answer
from edge_contract.digest import hex_of
from edge_contract.errors import WherryError
from edge_contract.layout import write_durably
from edge_contract.model import DRIFT_REFERENCE_FILE
from edge_contract.reference import DriftReference
from edge_contract.sketch import DriftSketch
from edge_runtime.features import extract


class DriftWatch:
    """Feeds answers to the monitor of the version that gave them. Owned by the recorder thread.

    Args:
        directory: where monitors keep their state, one file a bundle digest.
        settings: rates and sizes for every monitor.
    """

    def __init__(self, directory: Path, settings: DriftSettings) -> None:
        self._directory = directory
        self._settings = settings
        self._monitors: dict[str, DriftMonitor | None] = {}
        self._versions: dict[str, str] = {}
        self._troubles: list[tuple[str, str]] = []

    def observe(self, answer: Answer) -> list[DriftEvent]:
        """Hand one answer to its monitor; mostly nothing is found."""
        if answer.prediction is None or answer.frame is None:
            return []
        if answer.digest not in self._monitors:
            self._monitors[answer.digest] = self._open(answer)
            self._versions[answer.digest] = answer.version
        monitor = self._monitors[answer.digest]
        if monitor is None or not monitor.due(answer.monotonic_s):
            return []
        prediction = answer.prediction
        features, class_id = extract(
            answer.frame, prediction.judged, classes=prediction.class_id is not None
        )
        if len(features) != len(monitor.reference.features):
            self._disable(answer, f"{len(features)} features, the reference has others")
            return []
        return monitor.observe(features, class_id, answer.monotonic_s)

    def take_sketches(self) -> list[tuple[str, DriftSketch]]:
        """(version, sketch) of every monitor that saw samples since the last take."""
        taken = [
            (self._versions[digest], monitor.take_sketch())
            for digest, monitor in self._monitors.items()
            if monitor is not None
        ]
        return [(version, sketch) for version, sketch in taken if sketch.n]

    def take_troubles(self) -> list[tuple[str, str]]:
        """(name, text) of what could not be read or saved since the last call."""
        taken, self._troubles = self._troubles, []
        return taken

    def save(self) -> None:
        """Write every monitor's state."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for digest, monitor in self._monitors.items():
                if monitor is not None:
                    write_durably(self._path(digest), monitor.state_bytes())
        except OSError as error:
            self._troubles.append(("drift_state_unwritable", f"drift state: {error.strerror}"))

    def _open(self, answer: Answer) -> DriftMonitor | None:
        try:
            reference = DriftReference.decode(
                (answer.directory / DRIFT_REFERENCE_FILE).read_bytes()
            )
        except FileNotFoundError:
            self._disable(answer, "its bundle has no drift reference")
            return None
        except (OSError, WherryError) as error:
            self._disable(answer, f"its drift reference cannot be read: {error}")
            return None
        try:
            state = self._path(answer.digest).read_bytes()
        except OSError:
            state = None
        try:
            return DriftMonitor(reference, self._settings, state)
        except WherryError as error:
            self._troubles.append(("drift_state_lost", f"commissioning anew: {error.message}"))
            return DriftMonitor(reference, self._settings)

    def _disable(self, answer: Answer, why: str) -> None:
        self._monitors[answer.digest] = None
        self._troubles.append(("drift_disabled", f"no drift watch for {answer.version}: {why}"))

    def _path(self, digest: str) -> Path:
        return self._directory / f"{hex_of(digest)}.state"
