"""Orders by hand beside orders of the fleet: neither bars the other, the newer one wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.orders import OrderDesk
from edge_agent.trust.order import AcceptedOrder
from edge_agent.update.events import Ordered
from edge_agent.update.order import Order, Origin, order_from
from edge_agent.update.state import Stage
from edge_contract.health import HealthSpec
from tests.agent.test_order_desk import open_desk, ready_desk
from tests.trust.tuf_simulator import Publisher
from tests.update.bundles import SPEC, Version
from tests.update.device import Device
from tests.update.fleet import EARLY, LATE, V1, V2, V3, Start

BY_HAND: list[Origin] = ["file", "medium"]


@pytest.fixture
def publisher() -> Publisher:
    publisher = Publisher()
    for version in (V1, V2, V3):
        publisher.approve(version.version, version.blobs[version.digest])
    return publisher


def signed(publisher: Publisher, version: Version, seq: int) -> bytes:
    return publisher.order(
        seq=seq, version=version.version, manifest_digest=version.digest, health=SPEC
    )


def hear(desk: OrderDesk, device: Device, envelope: bytes) -> bool:
    """The loop's own way from the wire to the update machine; whether there was news."""
    desk.desired(envelope, 0.0)
    accepted = desk.decide(0.0, device.manager.state.obeyed)
    if isinstance(accepted, AcceptedOrder):
        device.manager.handle(Ordered(order_from(accepted.desired, HealthSpec())))
    return isinstance(accepted, AcceptedOrder)


def by_hand(device: Device, version: Version, origin: Origin) -> Order:
    order = version.order(device.manager.state.seen[1] + 1, origin=origin)
    device.manager.handle(Ordered(order))
    return order


@pytest.mark.parametrize("origin", BY_HAND)
@pytest.mark.parametrize("stage", [Stage.IDLE, *EARLY, *LATE])
def test_an_order_signed_while_its_number_was_taken_by_hand_is_carried_out(
    device: Device, publisher: Publisher, tmp_path: Path, origin: Origin, stage: Stage
) -> None:
    desk = ready_desk(tmp_path, publisher)
    envelope = signed(publisher, V3, 2)  # on its way; the fleet knows nothing of what comes first
    taken = by_hand(device, V2, origin)
    assert taken.seq == 2
    device.settle(until=stage)
    assert hear(desk, device, envelope)
    device.settle()
    assert device.running == V3.digest
    assert device.manager.state.seen == (1, 2)
    # Once: neither the retained copy nor an older one brings it, or the other, back.
    for again in (envelope, signed(publisher, V1, 1)):
        assert not hear(desk, device, again)
    by_hand(device, V1, origin)
    device.settle()
    assert not hear(desk, device, envelope)
    assert device.settle().running == V1.digest


def test_power_cut_before_the_journal_does_not_lose_an_order_whose_number_was_taken_by_hand(
    device: Device, publisher: Publisher, tmp_path: Path, start: Start
) -> None:
    desk = ready_desk(tmp_path, publisher)
    by_hand(device, V2, "file")
    device.settle()
    envelope = signed(publisher, V3, 2)
    desk.desired(envelope, 0.0)
    assert isinstance(desk.decide(0.0, device.manager.state.obeyed), AcceptedOrder)
    device.off()  # the power goes here: the trust directory knows the order, the journal does not
    after = start("power")
    assert hear(open_desk(tmp_path, publisher), after, envelope)
    assert after.settle().running == V3.digest


def test_an_order_by_hand_takes_the_place_of_the_fleets_and_is_not_undone_by_its_copy(
    device: Device, publisher: Publisher, tmp_path: Path
) -> None:
    desk = ready_desk(tmp_path, publisher)
    envelope = signed(publisher, V2, 2)
    assert hear(desk, device, envelope)
    device.settle(until=Stage.STAGING)
    by_hand(device, V3, "medium")
    device.settle()
    assert device.running == V3.digest
    assert device.phases(2)[-1] == "failed"
    assert not hear(desk, device, envelope)
    assert device.settle().running == V3.digest
