"""What the drift monitor finds: facts for the agent to log, spool and send."""

from __future__ import annotations

import msgspec


class Commissioned(msgspec.Struct, frozen=True):
    """The device has counted its own reference; alarms are possible from now on.

    Attributes:
        n: samples in the device's own reference.
        warnings: sentences on what weakens the promise here: few samples, samples that resemble
            their predecessors.
    """

    n: int
    warnings: tuple[str, ...]


class DeploymentGap(msgspec.Struct, frozen=True):
    """How far this device's data is from what the model was built with; found once.

    Attributes:
        psi: population stability index by feature name.
        ks: Kolmogorov-Smirnov distance by feature name (total variation for the class).
        worst: up to three names, largest PSI first.
    """

    psi: dict[str, float]
    ks: dict[str, float]
    worst: tuple[str, ...]


class DriftAlarm(msgspec.Struct, frozen=True):
    """The device's data has left its own reference.

    Attributes:
        features: (name, share of the evidence in 0..1), largest first.
        score_log: natural logarithm of the detector's score, at least ln A.
        samples_since_reset: samples since the detector started or last alarmed.
        onset_samples_ago: how many samples ago the change began, estimated.
        repeats: alarms kept quiet since the last one that was reported.
    """

    features: tuple[tuple[str, float], ...]
    score_log: float
    samples_since_reset: int
    onset_samples_ago: int
    repeats: int


class Recovered(msgspec.Struct, frozen=True):
    """After an alarm, no further one arose for the whole of ``realarm_s``.

    Attributes:
        samples: samples since the last alarm, reported or kept quiet.
    """

    samples: int


DriftEvent = Commissioned | DeploymentGap | DriftAlarm | Recovered
