"""Deltas as devices get them: asked for, made aside, pulled by digest, and only where allowed."""

from __future__ import annotations

import io
import time
from pathlib import Path

from edge_contract.codec import encode_json
from edge_contract.delta import apply_delta
from edge_contract.digest import digest_of
from edge_contract.errors import ContractError
from edge_contract.manifest import decode_manifest
from edge_contract.messages import BlobAsk, DeltaOffer
from fleet.service import RolloutOrder
from fleet.transfer.delta_store import DeltaStore
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import SimulatedDevice, wait_until
from tests.transfer.test_delta import BASE, TARGET

LAYER = "variants/generic-x86-64.onnx"


def layer_digest(fleet: FleetUnderTest, digest: str) -> str:
    data = fleet.repository.blob_path(digest).read_bytes()
    return decode_manifest(data, where="test").layer(LAYER).digest


def settled(device: SimulatedDevice, digest: str, *have: str) -> DeltaOffer:
    """Ask until the answer is not "wait"."""
    until = time.monotonic() + 20
    while (offer := device.ask_delta(digest, *have)).wait_s:
        assert time.monotonic() < until
        time.sleep(0.2)
    return offer


def test_a_device_gets_the_smallest_delta_from_what_it_holds(fleet: FleetUnderTest) -> None:
    old = layer_digest(fleet, fleet.publish("1.0.0", weights=BASE))
    ordered = fleet.publish("1.1.0", weights=TARGET)
    new = layer_digest(fleet, ordered)
    (device,) = fleet.enrolled("cam-1")
    fleet.published("1.1.0")
    fleet.service.start_rollout(RolloutOrder(line="digits", version="1.1.0"), who="ann")
    device.order()

    offer = settled(device, new, digest_of(b"not published"), old)
    assert offer.base == old
    assert 0 < offer.size_bytes < 0.2 * len(TARGET)
    device.ask(offer.delta, [(0, (offer.size_bytes - 1) // 4096)])
    wait_until(lambda: sum(len(b.data) for b in device.blocks) >= offer.size_bytes)
    delta = b"".join(b.data for b in sorted(device.blocks, key=lambda b: b.offset_bytes))
    assert digest_of(delta) == offer.delta
    made = apply_delta(
        io.BytesIO(delta), io.BytesIO(BASE), target_bytes=len(TARGET), base_bytes=len(BASE)
    )
    assert b"".join(made) == TARGET

    assert not settled(device, new, digest_of(b"unknown")).delta, "no base, no delta"
    # The old version is not what this device is ordered to run: no way leads back to it.
    before = len(device.refused)
    device.ask(old, [(0, 0)])
    wait_until(lambda: len(device.refused) > before)


def test_deltas_are_kept_over_a_restart_and_useless_ones_remembered(tmp_path: Path) -> None:
    files = {"old": BASE, "new": TARGET, "other": TARGET[::-1]}
    paths = {}
    for name, data in files.items():
        paths[digest_of(data)] = tmp_path / name
        (tmp_path / name).write_bytes(data)
    old, new, other = paths

    def open_store() -> DeltaStore:
        store = DeltaStore(tmp_path / "deltas", lambda digest: paths[digest])
        store.start()
        return store

    store = open_store()
    assert store.find(old, new) == (False, None)
    store.find(old, other)
    store.wait([(old, new), (old, other)], 20)
    _, delta = store.find(old, new)
    assert delta is not None
    assert store.find(old, other) == (True, None), "random against random"
    store.stop()
    again = open_store()
    assert again.find(old, new) == (True, delta)
    assert again.find(old, other) == (True, None)
    assert again.by_digest(delta.digest) == delta
    again.stop()


def test_deltas_that_somebody_removed_are_made_again(tmp_path: Path) -> None:
    paths = {}
    for name, data in {"old": BASE, "new": TARGET}.items():
        paths[digest_of(data)] = tmp_path / name
        (tmp_path / name).write_bytes(data)
    old, new = paths
    store = DeltaStore(tmp_path / "deltas", lambda digest: paths[digest])
    store.start()
    for _ in range(2):
        assert store.find(old, new) == (False, None)
        store.wait([(old, new)], 20)
        _, delta = store.find(old, new)
        assert delta is not None
        assert store.by_digest(delta.digest) == delta
        delta.path.unlink()
        assert store.by_digest(delta.digest) is None, "nobody is sent to wait for it"
    # Removed behind its back while another is made: that thread goes on.
    store.find(new, old)
    store.wait([(new, old)], 20)
    assert store._thread.is_alive()
    assert store.find(old, new) == (False, None)
    store.wait([(old, new)], 20)
    assert store.find(old, new)[1] is not None
    store.stop()


def test_a_delta_that_cannot_be_read_does_not_keep_the_manager_from_starting(
    tmp_path: Path,
) -> None:
    name = f"{'a' * 64}.{'b' * 64}.delta"
    (tmp_path / "deltas" / name).mkdir(parents=True)
    store = DeltaStore(tmp_path / "deltas", lambda digest: tmp_path / digest)
    store.start()
    store.stop()


def test_a_maker_that_dies_costs_the_delta_and_nothing_else(tmp_path: Path) -> None:
    def path_of(digest: str) -> Path:
        raise ContractError("gone")

    store = DeltaStore(tmp_path / "deltas", path_of)
    store.start()
    pair = (digest_of(b"a"), digest_of(b"b"))
    store.find(*pair)
    store.wait([pair], 10)
    assert store.find(*pair) == (True, None)
    store.stop()


def test_a_dry_run_says_how_many_bytes_will_go(fleet: FleetUnderTest) -> None:
    old = fleet.publish("1.0.0", weights=BASE)
    fleet.publish("1.1.0", weights=TARGET)
    first, second = fleet.enrolled("cam-1", "cam-2")
    fleet.published("1.1.0")
    first.say_state(digest=old, version="1.0.0")
    wait_until(lambda: any(view.digest == old for view in fleet.service.devices()))
    order = RolloutOrder(line="digits", version="1.1.0")
    preview = fleet.service.plan_rollout(order, who="ann").bytes
    known = {row.version_from: row for row in preview.rows}
    assert known[""].delta_bytes is None, "cam-2 runs nothing that is published"
    by_delta = known["1.0.0"].delta_bytes
    assert by_delta is not None
    assert by_delta < 0.25 * known["1.0.0"].full_bytes
    assert preview.expected_bytes == by_delta + known[""].full_bytes
    assert preview.transfer_s is None, "no link was measured yet"

    fleet.service.start_rollout(order, who="ann")
    second.order()
    layer = layer_digest(fleet, fleet.repository.find("digits", "1.1.0").digest)
    second.ask(layer, [(0, 4)])
    wait_until(lambda: len(second.blocks) == 5)
    time.sleep(0.3)
    second.send(
        second._own("blob", "ask"),
        encode_json(BlobAsk(digest=layer, block_bytes=4096, missing=[(5, 9)], more=True)),
    )
    wait_until(lambda: len(second.blocks) == 10)
    manager = fleet.manager
    assert manager is not None
    assert 5 * 4096 / 2 < manager.blobs.goodput_bytes_s()["cam-2"] < 5 * 4096 / 0.3
