"""Records over a real broker: committed before they are acknowledged, stored once, from whom they
say they are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import event, func, select

from edge_contract.codec import encode_json
from edge_contract.sketch import DriftSketch, FeatureSketch, pack_range
from edge_contract.topics import topic
from fleet.store import journal, schema
from tests.device_words import said_state
from tests.manager.bundles import REFERENCE
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import FLEET, SimulatedDevice, wait_until


def stored(fleet: FleetUnderTest, device: str) -> list[tuple[str, int, int]]:
    """(class, first, last) of every record in the store."""
    store = fleet.open_store()
    with store.read() as tx:
        rows = tx.execute(
            select(schema.records.c.cls, schema.records.c.seq_first, schema.records.c.seq)
            .where(schema.records.c.device == device)
            .order_by(schema.records.c.cls, schema.records.c.seq)
        )
        found = [tuple(row) for row in rows]
    store.close()
    return found  # type: ignore[return-value]


def finding_kinds(fleet: FleetUnderTest) -> dict[tuple[str, str], int]:
    """(device, kind) -> how often."""
    counts: Counter[tuple[str, str]] = Counter()
    for finding in fleet.service.findings():
        counts[finding.device, finding.kind] += finding.count
    return dict(counts)


def test_every_class_is_stored_once_and_acknowledged(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    for _ in range(5):
        device.say_telemetry()
    device.say_telemetry(late=True)
    device.say_event("started")
    device.say_event("drift-alarm", "alarm", onset_ts=123.5, features=["mean"])
    wait_until(lambda: not device.unacknowledged, what="for acks")
    assert [row[0] for row in stored(fleet, "cam-1")] == ["event"] * 2 + ["telemetry"] * 6
    detail = fleet.service.device("cam-1")
    assert detail.committed == {"telemetry": 6, "event": 2}
    assert [p.seq for p in detail.telemetry] == [1, 2, 3, 4, 5, 6]
    assert detail.telemetry[0].fields["frames_count"] == 3
    assert (detail.device.frames_count, detail.device.alarms_count) == (3, 1)
    (alarm,) = detail.alarms
    assert (alarm.onset_ts, alarm.features, alarm.name) == (123.5, ["mean"], "drift-alarm")
    assert [line.text for line in fleet.service.log(kind="drift")] == [
        "cam-1: drift-alarm happened"
    ]


def test_what_comes_again_is_acknowledged_again_and_stored_once(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    for _ in range(3):
        device.say_telemetry()
    payloads = dict(device._outbox)
    wait_until(lambda: not device.unacknowledged, what="for acks")
    device.acked.clear()
    device._outbox.update(payloads)
    device.resend()
    wait_until(lambda: not device.unacknowledged, what="for acks of repeats")
    assert stored(fleet, "cam-1") == [("telemetry", n, n) for n in (1, 2, 3)]
    assert fleet.service.device("cam-1").duplicates_count == 3
    assert fleet.service.health().duplicates_count == 3


def test_what_was_let_go_and_comes_again_is_acknowledged_and_not_stored(
    make_fleet: Callable[[str], FleetUnderTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.manager.retention._STEADY_S", 0.5)
    monkeypatch.setattr("fleet.manager.retention._REST_S", 0.1)
    fleet = make_fleet("mosquitto")
    fleet.start_manager(records_kept_s=0.5)
    (device,) = fleet.enrolled("cam-1")
    for _ in range(3):
        device.say_telemetry()
    payloads = dict(device._outbox)
    wait_until(lambda: not device.unacknowledged, what="for acks")
    wait_until(lambda: not stored(fleet, "cam-1"), what="for the end of old records")
    device.acked.clear()
    device._outbox.update(payloads)
    device.resend()
    wait_until(lambda: not device.unacknowledged, what="for acks of repeats")
    assert stored(fleet, "cam-1") == []
    detail = fleet.service.device("cam-1")
    assert (detail.duplicates_count, detail.committed) == (3, {"telemetry": 3})
    assert detail.device.frames_count == 3, "the newest summary is a fact of the device"


def test_a_partial_overlap_is_refused_and_counted(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    device.say_telemetry(seq=5, seq_first=3)
    wait_until(lambda: not device.unacknowledged, what="for the ack")
    device.say_telemetry(seq=6, seq_first=4)
    device.say_telemetry(seq=4)  # inside what is stored: a repeat
    wait_until(lambda: fleet.service.device("cam-1").duplicates_count == 1)
    assert finding_kinds(fleet) == {("cam-1", "partial_overlap"): 1}
    assert stored(fleet, "cam-1") == [("telemetry", 3, 5)]
    assert 6 not in device.acked[device.boot_id, "telemetry"]
    wait_until(lambda: device.records_refused, what="for the refusal")
    (refused,) = device.records_refused
    assert (refused.cls, refused.boot_id) == ("telemetry", device.boot_id)
    assert refused.ranges == [(4, 6)]


def test_a_record_that_will_never_be_one_is_refused_aloud(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    nonsense = b'{"seq": 7, "boot_id": "%s", "text": 1}' % device.boot_id.encode()
    device.record("event", "odd", 7, nonsense)
    wait_until(lambda: device.records_refused, what="for the refusal")
    (refused,) = device.records_refused
    assert (refused.cls, refused.ranges) == ("event", [(7, 7)])
    device.record("event", "odd", 8, b"not JSON: it does not say which record it is")
    device.say_event("after")
    wait_until(lambda: device.acked[device.boot_id, "event"])
    assert len(device.records_refused) == 1


def test_only_the_pinned_key_speaks_for_a_device(fleet: FleetUnderTest) -> None:
    first, second = fleet.enrolled("cam-1", "cam-2")
    thief = Ed25519PrivateKey.generate()
    # Signed by a stranger; by another device of the fleet; not signed; moved to another topic.
    first.version = "stolen"
    to = topic(FLEET, "cam-1", "event", "x")
    payload = encode_json({"ts": 1, "seq": 1, "boot_id": "b", "model_version": ""})
    second.send(to, payload, key=thief)
    second.send(to, payload)
    second._client.publish(to, payload, 1)
    second.key, first.key = first.key, second.key
    first.say_telemetry()
    wait_until(lambda: finding_kinds(fleet).get(("cam-1", "bad_signature")) == 4)
    assert stored(fleet, "cam-1") == []
    assert fleet.service.device("cam-1").device.version == ""


def test_a_device_that_never_enrolled_is_not_heard(fleet: FleetUnderTest) -> None:
    assert fleet.enrolled("cam-1")  # somebody who is heard
    stranger = SimulatedDevice("ghost", fleet.port, fleet.director)
    stranger.announce = lambda: None  # type: ignore[method-assign]
    fleet.devices.append(stranger)
    stranger.connect().say_telemetry()
    wait_until(lambda: finding_kinds(fleet).get(("ghost", "unknown_device")))
    assert [view.device for view in fleet.service.devices()] == ["cam-1"]


def test_a_second_key_for_a_device_is_refused(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    pinned = fleet.service.device("cam-1").key_fingerprint
    device.enrol(Ed25519PrivateKey.generate())
    wait_until(lambda: not device.enrolled[-1].accepted)
    reason = device.enrolled[-1].reason
    assert "another key is pinned" in reason
    assert "a name of its own" in reason
    assert reason.count("cam-1") == 1
    assert finding_kinds(fleet)["cam-1", "refused_key"] == 1
    device.enrol(Ed25519PrivateKey.generate())
    wait_until(lambda: finding_kinds(fleet)["cam-1", "refused_key"] == 2)
    assert fleet.manager is not None
    with fleet.manager.store.read() as tx:
        said = [row.text for row in journal.read_log(tx, kind="device", subject="cam-1", limit=9)]
    assert len([text for text in said if "another key" in text]) == 1, "tries are counted, not told"
    assert fleet.service.device("cam-1").key_fingerprint == pinned
    device.enrol()
    wait_until(lambda: device.enrolled[-1].accepted)


EVENT = {"ts": 1, "seq": 1, "boot_id": "b", "model_version": "", "name": "x"}
STATUS = {
    **{name: value for name, value in EVENT.items() if name != "name"},
    **{"rollout": "r", "digest": "", "version": "1.0.0", "phase": "committed", "desired_seq": 1},
}

STATE = {
    **{"ts": 1.0, "seq": 10**6, "boot_id": "b", "model_version": "", "connection_id": "c"},
    **{"hardware": "pi4", "device_key": "", "line": "digits"},
}


def odd(base: dict[str, object], **changes: object) -> bytes:
    return json.dumps({"severity": "info", "text": "", **base, **changes}).encode()


MALFORMED = [
    ("telemetry", "summary", b"{}"),
    ("telemetry", "other", b"{}"),
    ("event", "x", b"not json"),
    ("event", "x", odd(EVENT, seq=0)),
    ("event", "x", odd(EVENT, seq=2**64)),
    ("event", "x", odd(EVENT, name="y")),
    ("event", "x", odd(EVENT, ts=1e300)),
    ("event", "x", odd(EVENT, boot_id="")),
    ("event", "x", odd(EVENT, boot_id="\0")),
    ("event", "x", odd(EVENT, boot_id="\ud800")),
    ("event", "x", odd(EVENT, boot_id="b" * 81)),
    ("event", "x", b"9" * 140_000),
    ("status", "update", odd(STATUS, phase="dancing")),
    ("status", "update", odd(STATUS, desired_seq=2**64)),
    ("status", "update", odd(STATUS, digest="d" * 1000)),
    ("drift", "summary", b"\x92\x01\x02"),
    ("state", "agent", b"[]"),
    ("state", "agent", encode_json(said_state(**STATE, update_opens_ts=1e300))),
    ("state", "agent", encode_json(said_state(**{**STATE, "ts": -1e300}))),
    ("state", "other", b"{}"),
    ("state", "online", odd(EVENT, connection_id="c", online=True, seq=2**70)),
    ("blob", "ask", b'{"digest":"x"}'),
]


def test_malformed_payloads_are_findings_and_stop_nothing(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    for number, (cls, name, payload) in enumerate(MALFORMED, 1):
        device.send(topic(FLEET, "cam-1", cls, name), payload)
        wait_until(
            lambda n=number: finding_kinds(fleet).get(("cam-1", "malformed")) == n,  # type: ignore[misc]
            what=f"for {payload[:200]!r} to be refused",
        )
    device.say_telemetry()
    device.say_event("drift-alarm", "alarm", onset_ts=1e300)
    wait_until(lambda: not device.unacknowledged, what="for the acks")
    assert stored(fleet, "cam-1") == [("event", 1, 1), ("telemetry", 1, 1)]
    assert fleet.service.device("cam-1").alarms[0].onset_ts is None, "pages could not show it"


def test_drift_windows_merge_against_the_bundles_reference(fleet: FleetUnderTest) -> None:
    digest = fleet.publish("1.0.0")
    (device,) = fleet.enrolled("cam-1")
    device.say_state(version="1.0.0", digest=digest)
    for counts in ((0, 0, 0, 60), (0, 0, 0, 40)):
        n = sum(counts)
        sketch = DriftSketch(
            edges_digest=REFERENCE.edges_digest,
            n=n,
            features=(
                FeatureSketch(counts, 0, pack_range(0.8, 0.9)),
                FeatureSketch((n // 2, n // 2, 0), 0, pack_range(float("inf"), -float("inf"))),
            ),
        )
        device.say_drift(sketch.encode())
    wait_until(lambda: not device.unacknowledged, what="for acks")
    fleet.published("1.0.0")
    (view,) = fleet.service.drift()
    assert (view.samples, view.windows, view.problem) == (100, 2, "")
    mean, predicted = view.features
    assert mean.observed == [0, 0, 0, 100]
    assert mean.verdict == "major shift"
    assert predicted.ks == 0


def test_a_full_disk_loses_nothing(fleet: FleetUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.manager.loop._STORE_RETRY_S", 0.05)
    (device,) = fleet.enrolled("cam-1")
    assert fleet.manager is not None
    pages = [1]

    def limit(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages[0]}")

    # SQLite refuses to grow, as it does on a full disk.
    event.listen(fleet.manager.store.engine, "checkout", limit)
    for _ in range(200):
        device.say_telemetry()
    wait_until(lambda: "full" in fleet.service.health().problem, what="for the trouble")
    assert device.unacknowledged
    pages[0] = 1_000_000
    wait_until(lambda: not device.unacknowledged, what="for acks")
    assert len(stored(fleet, "cam-1")) == 200
    assert fleet.service.health().problem == ""


def test_counts_agree_with_the_rows(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    for _ in range(20):
        device.say_telemetry()
    wait_until(lambda: not device.unacknowledged, what="for acks")
    store = fleet.open_store()
    with store.read() as tx:
        rows = tx.scalar(select(func.count()).select_from(schema.records))
    store.close()
    assert rows == fleet.service.health().records_count == 20
