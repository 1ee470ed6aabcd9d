"""Drift as people and programs see it: alarms, and the recent windows beside the reference."""

from __future__ import annotations

import msgspec


class DriftAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm that a device raised about its own input.

    onset_ts: the device's estimate of when the change began, unix seconds of its clock.
    seq: of the event in the device's class ``event`` within ``boot_id``.
    """

    device: str
    name: str
    ts: float
    onset_ts: float | None
    received_at_s: float
    text: str
    model_version: str
    boot_id: str
    seq: int
    features: list[str]
    detail: dict[str, str | float | list[str | float]]


class FeatureDrift(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of one device: its recent windows against the bundle's reference.

    reference, observed: counts per bin, the same bins; ``edges`` are the inner bin edges, empty
    for the predicted class, whose bins are ``class_ids`` and one for every other class.
    ks: Kolmogorov-Smirnov distance; for the predicted class the total variation.
    psi_by_chance: what PSI of unchanged data stays below in 999 of 1,000 such comparisons.
    verdict: ``stable``, ``insufficient data``, ``moderate shift`` or ``major shift``.
    """

    feature: str
    psi: float
    psi_by_chance: float
    ks: float
    verdict: str
    edges: list[float]
    class_ids: list[int]
    reference: list[int]
    observed: list[int]
    nan_count: int


class DriftView(msgspec.Struct, frozen=True, kw_only=True):
    """Drift of one device on the version that it runs.

    samples: samples in the merged windows, the newest ones of this version (about 1,000).
    problem: why there are no features to show ("" when there are).
    """

    device: str
    line: str
    version: str
    digest: str
    online: bool
    alarms: list[DriftAlarm]
    samples: int
    windows: int
    from_ts: float | None
    to_ts: float | None
    features: list[FeatureDrift]
    problem: str
