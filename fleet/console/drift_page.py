"""Drift: a heat map of features by devices, one feature against its reference, and alarms."""

from __future__ import annotations

from itertools import pairwise

from fleet.console import words
from fleet.console.charts import Bin, heat, histogram_pair
from fleet.console.page import Page, Place
from fleet.service import FleetService
from fleet.views.drift import DriftView, FeatureDrift

_DEVICES_MAX = 60
_ALARMS_MAX = 50
_SHIFTED = frozenset({"major shift", "moderate shift"})


def drift_page(service: FleetService, place: Place) -> Page:
    """``/drift``."""
    views = sorted(service.drift(), key=_urgency)
    alarms = sorted(
        (alarm for view in views for alarm in view.alarms), key=lambda alarm: -alarm.received_at_s
    )
    measured = [view for view in views if view.features]
    chosen, feature = _chosen(measured, place)
    return Page(
        template="drift.html",
        title="Drift",
        section="drift",
        says=_sentence(views),
        values={
            "now": service.health().now_s,
            "sentence": _sentence(views),
            "device_count": len(views),
            "measured": measured[:_DEVICES_MAX],
            "hidden_count": max(0, len(measured) - _DEVICES_MAX),
            "silent": [view for view in views if not view.features],
            "names": _names(measured),
            "heat": heat,
            "chosen": chosen,
            "feature": feature,
            "bins": _bins(feature) if feature else [],
            "alarms": alarms[:_ALARMS_MAX],
        },
    )


def _urgency(view: DriftView) -> tuple[bool, float, str]:
    worst = max((feature.psi for feature in view.features), default=-1.0)
    return not view.alarms, -worst, view.device


def _names(views: list[DriftView]) -> list[str]:
    """Feature names in the order of the references; the predicted class stays last."""
    names: dict[str, None] = {}
    for view in views:
        names.update(dict.fromkeys(feature.feature for feature in view.features))
    return list(names)


def _chosen(views: list[DriftView], place: Place) -> tuple[DriftView | None, FeatureDrift | None]:
    """What the query asks for, or the most drifted feature of the first device."""
    if not views:
        return None, None
    wanted = place.query.get("device", "")
    view = next((view for view in views if view.device == wanted), views[0])
    name = place.query.get("feature", "")
    worst = max(view.features, key=lambda feature: feature.psi)
    return view, next((item for item in view.features if item.feature == name), worst)


def _bins(feature: FeatureDrift) -> list[Bin]:
    if feature.class_ids:
        labels = [*(f"class {number}" for number in feature.class_ids), "other classes"]
    elif feature.edges:
        edges = [words.figure(edge) for edge in feature.edges]
        inner = [f"{low} to {high}" for low, high in pairwise(edges)]
        labels = [f"below {edges[0]}", *inner, f"{edges[-1]} and above"]
    else:
        labels = ["all values"]
    return histogram_pair(labels, feature.reference, feature.observed)


def _sentence(views: list[DriftView]) -> str:
    alarmed = sum(bool(view.alarms) for view in views)
    shifted = sum(any(feature.verdict in _SHIFTED for feature in view.features) for view in views)
    if not views:
        return "No device has said yet what it runs."
    told = f"{words.count(alarmed, 'device')} raised a drift alarm" if alarmed else "No drift alarm"
    seen = f"{words.count(shifted, 'device')} shifted against the reference"
    return f"{told}; {seen if shifted else 'no shift against the reference is seen'}."
