"""Blobs over a real broker: only what is ordered, resumed, and shared out fairly."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from edge_contract.digest import digest_of
from edge_contract.manifest import decode_manifest
from fleet.clock import SystemClock
from fleet.service import RolloutOrder
from fleet.transfer.blob_server import BlobServer
from fleet.transfer.fair_queue import Want
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import SimulatedDevice, wait_until

BLOCK = 4096


def received(device: SimulatedDevice, digest: str) -> dict[int, bytes]:
    return {
        block.offset_bytes // BLOCK: block.data for block in device.blocks if block.digest == digest
    }


def test_a_device_pulls_its_bundle_and_resumes(fleet: FleetUnderTest) -> None:
    weights = os.urandom(50 * BLOCK + 17)
    digest = fleet.publish("1.0.0", weights=weights)
    (device,) = fleet.enrolled("cam-1")
    fleet.published("1.0.0")
    fleet.service.start_rollout(RolloutOrder(line="digits", version="1.0.0"), who="ann")
    assert device.order().manifest_digest == digest

    device.ask(digest, [(0, 0)])
    manifest_bytes = wait_until(lambda: received(device, digest).get(0))
    assert digest_of(manifest_bytes) == digest
    layer = decode_manifest(manifest_bytes, where="test").layer("variants/generic-x86-64.onnx")
    device.ask(layer.digest, [(0, 20)])
    wait_until(lambda: len(received(device, layer.digest)) == 21)

    # The connection goes, and with it what was asked; the bitmap asks for the rest.
    device._client.disconnect()
    device._client.loop_stop()
    device.connect()
    before = len(device.blocks)
    device.ask(layer.digest, [(21, 50)])
    wait_until(lambda: len(received(device, layer.digest)) == 51)
    assert len(device.blocks) - before == 30, "nothing came twice"
    blocks = received(device, layer.digest)
    assert b"".join(blocks[index] for index in range(51)) == weights
    assert {block.size_bytes for block in device.blocks if block.digest == layer.digest} == {
        len(weights)
    }


def test_only_blobs_of_what_is_ordered_are_served(fleet: FleetUnderTest) -> None:
    ordered = fleet.publish("1.0.0")
    other = fleet.publish("1.1.0")
    first, second = fleet.enrolled("cam-1", "cam-2")
    fleet.published("1.1.0")
    order = RolloutOrder(line="digits", version="1.0.0", devices=["cam-1"])
    fleet.service.start_rollout(order, who="ann")
    first.order()
    second.ask(ordered, [(0, 0)])
    wait_until(lambda: second.refused)
    assert "nothing is ordered" in second.refused[0].reason
    for digest in (other, digest_of(b"no such blob"), "sha256:../../keys", "x" * 1000):
        before = len(first.refused)
        first.ask(digest, [(0, 0)])
        wait_until(lambda n=before: len(first.refused) > n)  # type: ignore[misc]
        assert "not part of digits 1.0.0" in first.refused[-1].reason
    for ranges, block_bytes in (([(0, 1)], BLOCK), ([(0, 0), (0, 0)], BLOCK), ([(0, 0)], 1)):
        before = len(first.refused)
        first.ask(ordered, ranges, block_bytes)
        wait_until(lambda n=before: len(first.refused) > n)  # type: ignore[misc]
    assert not first.blocks
    assert not second.blocks


class SlowSocket:
    """Takes what is published and writes it out only when told, as a full socket does."""

    def __init__(self) -> None:
        self.written = False

    def is_published(self) -> bool:
        return self.written


def test_a_full_socket_holds_the_server_back(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"x" * 1_000_000)
    sent: list[SlowSocket] = []
    more = threading.Event()

    def publish(topic: str, payload: bytes) -> SlowSocket:
        sent.append(SlowSocket())
        more.set()
        return sent[-1]

    server = BlobServer("home", lambda _: blob, publish, SystemClock(), unsent_bytes_max=10 * BLOCK)
    server.start()
    server.ask("cam-1", Want("sha256:" + "0" * 64, 1_000_000, BLOCK, [(0, 200)]))
    wait_until(lambda: len(sent) >= 10)
    more.clear()
    assert not more.wait(0.1), "it goes on although nothing is written"
    assert len(sent) == 10
    sent[0].written = True
    wait_until(lambda: len(sent) == 11)
    # The connection goes with what was handed over; the next one begins with an empty socket.
    server.disconnected()
    server.ask("cam-1", Want("sha256:" + "0" * 64, 1_000_000, BLOCK, [(0, 200)]))
    wait_until(lambda: len(sent) == 21)
    server.stop()
