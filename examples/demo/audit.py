"""Recompute what happened in the demo from the evidence that it left, and judge it.

A program of its own: it imports nothing of the product. It reads

- each device's predictions file, spool ledger and update journal,
- the fleet's SQLite store,
- what an outsider heard on the wire (``wire_log.py``),
- the timeline of what the demo did to the world (killed the broker, darkened a camera).

``python -m examples.demo.audit demo-out`` writes ``demo-report.json`` and exits 1 when a promise
was not kept.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RecordId = tuple[str, str, int]
"""(boot, class, seq) of one device."""

OFFLINE_PREDICTIONS_MIN = 50
WATCHED_SAMPLES_MIN = 2000
SAMPLE_LIST_MAX = 20


@dataclass
class Device:
    """The evidence of one device."""

    name: str
    predictions_count: int = 0
    predictions_offline_count: int = 0
    watched_samples_count: int = 0
    errors_count: int = 0
    spooled: set[RecordId] = field(default_factory=set)
    committed: Counter[RecordId] = field(default_factory=Counter)
    heard: Counter[RecordId] = field(default_factory=Counter)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    orders: set[str] = field(default_factory=set)
    """Digests that this device was ever ordered to run, as heard on the wire."""
    final_version: str = ""
    final_digest: str = ""


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file; a torn last line is what a cut leaves and is skipped."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                if line.endswith("\n"):
                    raise


def collect(out: Path, timeline: dict[str, Any]) -> list[Device]:
    """Read all evidence."""
    devices = {name: Device(name) for name in timeline["devices"]}
    store = sqlite3.connect(f"file:{out / timeline['store']}?mode=ro", uri=True)
    for device in devices.values():
        home = out / "devices" / device.name
        read_predictions(device, home / "predictions.jsonl", timeline, commissioned(store, device))
        for line in json_lines(home / "state" / "spool-ledger.jsonl"):
            for seq in range(line["seq_a"], line["seq_b"] + 1):
                device.spooled.add((line["boot_id"], line["class"], seq))
        for entry in json_lines(home / "state" / "update" / "journal"):
            device.facts += [{"ts": entry["ts"], **fact} for fact in entry.get("facts", [])]
        read_store(device, store)
    read_wire(devices, out / "wire.jsonl")
    store.close()
    return list(devices.values())


def read_predictions(
    device: Device, path: Path, timeline: dict[str, Any], watched_from: dict[str, float]
) -> None:
    """Count predictions: all, those while the broker was away, those that drift was watched on.

    A prediction was watched when its version had commissioned this device before it, and the
    injected darkness had not begun on this camera.
    """
    dark = timeline["dark"]["ts"] if timeline["dark"]["device"] == device.name else float("inf")
    last = ""
    for line in json_lines(path):
        if "class_id" not in line:
            device.errors_count += 1
            continue
        device.predictions_count += 1
        ts = line["ts"]
        if timeline["broker_killed_ts"] < ts < timeline["broker_back_ts"]:
            device.predictions_offline_count += 1
        if watched_from.get(line["model_version"], float("inf")) < ts < dark:
            device.watched_samples_count += 1
        last, device.final_digest = line["model_version"], line["digest"]
    device.final_version = last


def commissioned(store: sqlite3.Connection, device: Device) -> dict[str, float]:
    """Since when each version's drift detector watched on this device."""
    rows = store.execute(
        "select model_version, min(ts) from records where device = ? and cls = 'event'"
        " and name = 'drift-commissioned' group by model_version",
        (device.name,),
    )
    return dict(rows.fetchall())


def read_store(device: Device, store: sqlite3.Connection) -> None:
    """What the fleet has committed for this device, and the alarms among it."""
    for boot, cls, first, last in store.execute(
        "select boot_id, cls, seq_first, seq from records where device = ?", (device.name,)
    ):
        for seq in range(first, last + 1):
            device.committed[boot, cls, seq] += 1
    for (payload,) in store.execute(
        "select payload from records where device = ? and cls = 'event' and name = 'drift-alarm'"
        " order by ts",
        (device.name,),
    ):
        event = json.loads(payload)
        device.alarms.append(
            {
                "ts": event["ts"],
                "onset_ts": event["detail"]["onset_ts"],
                "features": event["detail"]["features"],
                "model_version": event["model_version"],
            }
        )


def read_wire(devices: dict[str, Device], path: Path) -> None:
    """Count deliveries of each record, and note the orders."""
    for line in json_lines(path):
        device = devices.get(line["device"])
        if device is None:
            continue
        if line["class"] == "desired" and "digest" in line:
            device.orders.add(line["digest"])
        elif "boot_id" in line:
            cls = "telemetry" if line["class"] == "telemetry_backfill" else line["class"]
            for seq in range(line["seq_first"], line["seq"] + 1):
                device.heard[line["boot_id"], cls, seq] += 1


def slots(device: Device) -> dict[str, list[str]]:
    """Digest -> what the journal says of it, in order: entered, trial, active, left."""
    found: dict[str, list[str]] = defaultdict(list)
    for fact in device.facts:
        found[fact["digest"]].append(f"{fact['what']} {fact['slot']}")
    return dict(found)


def by_class(ids: set[RecordId]) -> dict[str, int]:
    """How many records of each class."""
    return dict(sorted(Counter(cls for _, cls, _ in ids).items()))


def describe(device: Device) -> dict[str, Any]:
    """One device's part of the report."""
    missing = device.spooled - set(device.committed)
    return {
        "predictions": device.predictions_count,
        "predictions_offline": device.predictions_offline_count,
        "frames_refused_or_failed": device.errors_count,
        "drift_samples_watched": device.watched_samples_count,
        "records_spooled": by_class(device.spooled),
        "records_committed": by_class(set(device.committed)),
        "missing": sorted(missing)[:SAMPLE_LIST_MAX],
        "missing_count": len(missing),
        "duplicates_stored": sum(n - 1 for n in device.committed.values()),
        "duplicates_on_wire": sum(n - 1 for n in device.heard.values()),
        "drift_alarms": device.alarms,
        "slots": slots(device),
        "ordered_digests": sorted(device.orders),
        "final_version": device.final_version,
        "final_digest": device.final_digest,
    }


def judge(devices: list[Device], timeline: dict[str, Any]) -> dict[str, bool]:
    """Every promise of the demo, and whether the evidence shows it kept."""
    dark = timeline["dark"]
    darkened = next(d for d in devices if d.name == dark["device"])
    others = [d for d in devices if d is not darkened]
    digests = timeline["digests"]
    swapped = [slots(d).get(digests["swapped"], []) for d in devices]
    slow = [slots(d).get(digests["slow"], []) for d in devices]

    def entered(facts: list[str], what: str) -> bool:
        return any(fact.startswith(what) for fact in facts)

    return {
        "missing 0": all(not d.spooled - set(d.committed) for d in devices),
        "something was spooled on every device": all(d.spooled for d in devices),
        "duplicates stored 0": all(n == 1 for d in devices for n in d.committed.values()),
        "duplicates on the wire above 0": any(n > 1 for d in devices for n in d.heard.values()),
        f"at least {OFFLINE_PREDICTIONS_MIN} predictions while offline on every device": all(
            d.predictions_offline_count >= OFFLINE_PREDICTIONS_MIN for d in devices
        ),
        "the darkened camera alarmed, after the onset": bool(darkened.alarms)
        and all(alarm["ts"] >= dark["ts"] for alarm in darkened.alarms),
        "no other device alarmed": not any(d.alarms for d in others),
        f"at least {WATCHED_SAMPLES_MIN} samples watched on each of the others": all(
            d.watched_samples_count >= WATCHED_SAMPLES_MIN for d in others
        ),
        "swapped weights never ran": not any(
            entered(facts, "trial") or entered(facts, "active") for facts in swapped
        ),
        "swapped weights were offered to one device only": sum(
            digests["swapped"] in d.orders for d in devices
        )
        == 1,
        "the slow version was switched in on exactly one device, and left": sum(
            entered(facts, "trial") and entered(facts, "left") for facts in slow
        )
        == 1
        and sum(entered(facts, "trial") for facts in slow) == 1
        and not any(entered(facts, "active") for facts in slow),
        "the slow version was offered to one device only": sum(
            digests["slow"] in d.orders for d in devices
        )
        == 1,
        "all devices on the good version at the end": all(
            d.final_digest == digests["good"] for d in devices
        ),
    }


def main() -> int:
    """Write the report, print the verdicts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path, help="the demo's output directory")
    parser.add_argument("--report", type=Path, default=Path("demo-report.json"))
    arguments = parser.parse_args()
    timeline = json.loads((arguments.out / "timeline.json").read_text())
    devices = collect(arguments.out, timeline)
    checks = judge(devices, timeline)
    report = {
        "broker": timeline["broker"],
        "passed": all(checks.values()),
        "checks": checks,
        "missing": sum(len(d.spooled - set(d.committed)) for d in devices),
        "duplicates_stored": sum(n - 1 for d in devices for n in d.committed.values()),
        "duplicates_on_wire": sum(n - 1 for d in devices for n in d.heard.values()),
        "injected": {
            "dark": timeline["dark"],
            "broker_away_s": timeline["broker_back_ts"] - timeline["broker_killed_ts"],
        },
        "devices": {device.name: describe(device) for device in devices},
        "timeline": timeline,
    }
    arguments.report.write_text(json.dumps(report, indent=2) + "\n")
    for promise, kept in checks.items():
        print(f"  {'kept   ' if kept else 'BROKEN '} {promise}")
    print(f"report: {arguments.report}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
