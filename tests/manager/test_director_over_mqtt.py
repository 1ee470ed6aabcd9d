"""What the director signs beside orders, and what happens when its key or the epoch is replaced."""

from __future__ import annotations

from edge_contract.codec import encode_json
from edge_contract.command import COMMAND_TYPE, decode_command
from edge_contract.signed_time import TIME_TYPE, TimeAsk, decode_time_reply
from edge_contract.signing import fingerprint, public_bytes, verify_document
from edge_contract.topics import topic
from fleet.repository.audit_log import verify_audit
from fleet.repository.ceremony import Ceremony
from fleet.rollout.gate import Gate
from fleet.service import RolloutOrder
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import FLEET, wait_until


def ordered(fleet: FleetUnderTest) -> None:
    fleet.publish("1.0.0")
    fleet.published("1.0.0")
    order = RolloutOrder(line="digits", version="1.0.0", gate=Gate(quorum_share=1.0))
    fleet.service.start_rollout(order, who="ann")


def test_revoking_the_director_key_makes_the_manager_sign_its_orders_anew(
    fleet: FleetUnderTest,
) -> None:
    (device,) = fleet.enrolled("cam-1")
    ordered(fleet)
    before = device.order()
    assert fleet.manager is not None
    ceremony = Ceremony(fleet.repository, "ann")

    def revoke() -> None:
        # On the loop's thread, so that the device knows the new key before it hears of it.
        assert ceremony.revoke(fingerprint(fleet.director), None).committed
        device.director = public_bytes(fleet.repository.director_key())

    fleet.manager.do(revoke)
    assert device.director != fleet.director
    after = device.order(seq_above=before.seq)
    assert (after.version, after.epoch) == (before.version, 1)
    fleet.manager.do(lambda: ceremony.raise_epoch())
    wait_until(lambda: device.desired[-1] and device.desired[-1].epoch == 2, what="for epoch 2")


def test_a_device_that_failed_is_not_sent_into_the_same_trial_by_a_new_signature(
    fleet: FleetUnderTest,
) -> None:
    good, bad = fleet.enrolled("cam-1", "cam-2")
    fleet.publish("1.0.0")
    fleet.published("1.0.0")
    gate = Gate(quorum_share=0.5, max_failures_count=1)
    rollout = fleet.service.start_rollout(
        RolloutOrder(line="digits", version="1.0.0", shares=[1.0], gate=gate), who="ann"
    )
    bad.fail(bad.order())
    good.install(good.order())
    wait_until(
        lambda: fleet.service.rollout(rollout.id).rollout.status == "completed", what="for its end"
    )
    before = good.order()
    assert fleet.manager is not None
    ceremony = Ceremony(fleet.repository, "ann")

    def revoke() -> None:
        assert ceremony.revoke(fingerprint(fleet.director), None).committed
        good.director = bad.director = public_bytes(fleet.repository.director_key())

    # What is on its way under the old key would be refused under the new one.
    wait_until(lambda: not good.unacknowledged and not bad.unacknowledged, what="for the acks")
    heard = len(bad.desired)
    fleet.manager.do(revoke)
    assert good.order(seq_above=before.seq).version == "1.0.0"
    assert len(bad.desired) == heard


def test_an_order_that_waits_outlives_an_installation_by_hand_and_a_new_director_key(
    fleet: FleetUnderTest,
) -> None:
    waits, done = fleet.enrolled("cam-1", "cam-2")
    fleet.publish("1.0.0")
    fleet.published("1.0.0")
    order = RolloutOrder(line="digits", version="1.0.0", shares=[1.0], gate=Gate(quorum_share=1.0))
    rollout = fleet.service.start_rollout(order, who="ann")
    done.install(done.order())
    assert waits.order().seq == 1
    # Their owners install something else by hand: one before its order came, one after.
    for device in (waits, done):
        device.say_state(desired_seq=7, digest="sha256:" + "9" * 64)
    wait_until(lambda: {view.digest[-9:] for view in fleet.service.devices()} == {"9" * 9})
    wait_until(lambda: not done.unacknowledged, what="for the acks")
    assert fleet.manager is not None
    ceremony, heard = Ceremony(fleet.repository, "ann"), len(done.desired)

    def revoke() -> None:
        assert ceremony.revoke(fingerprint(fleet.director), None).committed
        waits.director = done.director = public_bytes(fleet.repository.director_key())

    fleet.manager.do(revoke)
    again = waits.order(seq_above=7)
    assert (again.version, again.seq) == ("1.0.0", 8)
    waits.install(again)
    wait_until(
        lambda: fleet.service.rollout(rollout.id).rollout.status == "completed", what="for its end"
    )
    assert len(done.desired) == heard, "a new signature is no new order"


def test_a_device_with_high_numbers_of_the_epoch_before_answers_in_the_new_one(
    fleet: FleetUnderTest,
) -> None:
    (device,) = fleet.enrolled("cam-1")
    device.say_state(desired_seq=40, held=True)
    wait_until(lambda: fleet.service.device("cam-1").device.held, what="for its state")
    device.say_state(held=False)
    wait_until(lambda: not fleet.service.device("cam-1").device.held, what="for its state")
    assert Ceremony(fleet.repository, "ann").raise_epoch().committed
    ordered(fleet)
    order = device.order()
    assert (order.epoch, order.seq) == (2, 1)
    device.desired_epoch = 2
    device.install(order)
    wait_until(
        lambda: fleet.service.rollout("digits-1.0.0").rollout.status == "completed",
        what="for its end",
    )


def test_manager_answers_a_question_for_the_time_with_its_nonce(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    nonce = "ab" * 16
    device.send(topic(FLEET, "cam-1", "ask", "time"), encode_json(TimeAsk(nonce=nonce)))
    cls, envelope = wait_until(lambda: device.documents[:1], what="for the time")[0]
    payload, _ = verify_document(envelope, TIME_TYPE, [fleet.director], what="time")
    reply = decode_time_reply(payload)
    assert (cls, reply.device, reply.nonce) == ("rsp", "cam-1", nonce)
    assert abs(reply.now - fleet.clock.wall_s()) < 60


def test_command_is_signed_for_one_device_and_stands_in_the_audit_log(
    fleet: FleetUnderTest,
) -> None:
    one, other = fleet.enrolled("cam-1", "cam-2")
    fleet.service.command("cam-1", "report", who="ann")
    cls, envelope = wait_until(lambda: one.documents[:1], what="for the command")[0]
    payload, _ = verify_document(envelope, COMMAND_TYPE, [fleet.director], what="command")
    command = decode_command(payload)
    assert (cls, command.device, command.name) == ("cmd", "cam-1", "report")
    assert other.documents == []
    archive = fleet.repository.archive
    keys = archive.directors(archive.files.read()).audit_keys
    log = verify_audit(archive.audit.read(), [bytes.fromhex(key) for key in keys], [])
    assert (log[-1].who, log[-1].action, log[-1].subject) == ("ann", "command", "cam-1")


def test_operators_orders_stand_in_the_signed_log(fleet: FleetUnderTest) -> None:
    fleet.enrolled("cam-1")
    ordered(fleet)
    archive = fleet.repository.archive
    assert b'"action":"start","subject":"digits 1.0.0"' in archive.audit.read()
