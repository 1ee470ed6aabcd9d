"""Attacks with orders, commands and time: Uptane's list, from the wire to a captured manager."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.orders import TIME_QUESTIONS_MAX
from edge_contract.codec import encode_json
from edge_contract.command import COMMAND_TYPE, Command
from edge_contract.desired import Directors
from edge_contract.digest import digest_of
from edge_contract.signed_time import TIME_TYPE, TimeReply
from edge_contract.signing import sign_document, sign_message
from edge_contract.topics import topic
from tests.attacks.victim import DEVICE, FLEET, Victim
from tests.trust.tuf_simulator import DAY_S, LINE, NOW_S

ORDER = "edge_agent.trust.order"
APPROVED = "edge_agent.trust.approved"


def command(victim: Victim, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "fleet": FLEET,
        "device": DEVICE,
        "device_key": victim.device_key,
        "epoch": 1,
        "nonce": "0" * 32,
        "issued_at": NOW_S,
        "expires": NOW_S + 3600,
        "name": "report",
    }
    key = victim.publisher.keys["director"][0]
    payload = encode_json(Command(**{**fields, **changes}))  # type: ignore[arg-type]
    return sign_document(key, COMMAND_TYPE, payload)


def send_command(victim: Victim, envelope: bytes) -> None:
    victim.send(topic(FLEET, DEVICE, "cmd", "report"), envelope)


# --- whom an order is for -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        ({"device": "cam-2"}, "it is for device 'cam-2', this is 'cam-1'"),
        ({"device_key": "f" * 64}, "it is for device key"),
        ({"fleet": "farm"}, "it is for fleet 'farm'"),
        ({"line": "faces"}, "it is for line 'faces'"),
        ({"hardware": "jetson-orin-nano"}, "on hardware 'jetson-orin-nano'"),
    ],
    ids=["device", "device key", "fleet", "line", "hardware"],
)
def test_order_for_another(change: dict[str, object], saying: str, victim: Victim) -> None:
    victim.order(victim.envelope(**change))
    victim.refused(ORDER, saying)


# --- what an order may order -----------------------------------------------------------------


def test_arbitrary_software_by_version(victim: Victim) -> None:
    victim.order(victim.envelope(version="6.6.6"))
    victim.refused(APPROVED, r"digits 6\.6\.6 is not approved")


def test_arbitrary_software_under_an_approved_version(victim: Victim) -> None:
    victim.order(victim.envelope(manifest_digest=digest_of(b"malware")))
    victim.refused(APPROVED, "is approved as sha256:")


def test_downgrade_below_the_signed_floor(victim: Victim) -> None:
    victim.publisher.line.unrecognized_fields["x-wherry-min-release"] = "1.1.0"
    victim.publisher.approve("1.1.0")
    victim.metadata()
    victim.order(victim.envelope(version="1.0.0"))
    victim.refused(APPROVED, r"downgrade: digits 1\.0\.0 is below the line's signed floor 1\.1\.0")


def test_version_whose_approval_was_withdrawn(victim: Victim) -> None:
    victim.publisher.approve("1.1.0")
    del victim.publisher.line.targets[f"{LINE}/1.0.0"]
    victim.metadata()
    victim.order(victim.envelope(version="1.0.0"))
    victim.refused(APPROVED, r"digits 1\.0\.0 is not approved")


# --- replay and time -------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [1, 0])
def test_replayed_sequence(seq: int, victim: Victim) -> None:
    victim.order(victim.envelope(seq=seq, rollout="again"))
    victim.refused(ORDER, "replay: expected an order after epoch 1 seq 1")


def test_replayed_order_from_before_a_new_epoch(victim: Victim) -> None:
    victim.publisher.name_director(epoch=2)
    victim.publisher.bump()
    victim.metadata()
    victim.order(victim.envelope(seq=99))
    victim.refused(ORDER, "epoch 1 is over: offline keys signed epoch 2")


def test_expired_order(victim: Victim) -> None:
    victim.order(victim.envelope(expires=NOW_S - 1))
    victim.refused(ORDER, "order refused: expired at")


def test_clock_set_to_2038_by_a_false_time_server(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.orders._SYNCHRONISED", victim.home / "root.json")
    victim.clock.wall = 2_145_916_800.0
    victim.order(victim.envelope())
    victim.refused(ORDER, "order refused")
    victim.clock.wall = NOW_S
    victim.order(victim.envelope())
    assert victim.agent.desk.desired_seq == 2  # nothing of the wrong time was kept


def test_clock_set_back_to_1970_to_revive_expired_metadata(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.orders._SYNCHRONISED", victim.home / "root.json")
    victim.clock.wall = 12.0
    victim.order(victim.envelope(issued_at=NOW_S - 9 * DAY_S, expires=NOW_S - 8 * DAY_S))
    victim.refused("edge_agent.trust.time_floor", "order refused: expired at")


def test_replayed_time_reply(victim: Victim) -> None:
    victim.agent.desk.ask_time()
    reply = TimeReply(fleet=FLEET, device=DEVICE, nonce="0" * 32, now=NOW_S + DAY_S)
    key = victim.publisher.keys["director"][0]
    envelope = sign_document(key, TIME_TYPE, encode_json(reply))
    victim.send(topic(FLEET, DEVICE, "rsp", "time"), envelope)
    victim.refused("edge_agent.trust.time_floor", "replay: a time reply to a question that")


def time_reply(victim: Victim, question: bytes, now_s: float) -> bytes:
    nonce = json.loads(question)["nonce"]
    reply = TimeReply(fleet=FLEET, device=DEVICE, nonce=nonce, now=now_s)
    return sign_document(victim.publisher.keys["director"][0], TIME_TYPE, encode_json(reply))


def test_time_reply_that_counts_again(victim: Victim) -> None:
    """Answers that take longer than the next question count, each once and in any order."""
    desk = victim.agent.desk
    first, second = desk.ask_time(), desk.ask_time()
    for question, now_s in ((second, NOW_S + 120), (first, NOW_S + 60)):
        envelope = time_reply(victim, question, now_s)
        victim.send(topic(FLEET, DEVICE, "rsp", "time"), envelope)
        assert desk.reference_s() == NOW_S + 120, "the floor rises, and never falls"
    victim.send(topic(FLEET, DEVICE, "rsp", "time"), envelope)
    victim.refused("edge_agent.trust.time_floor", "replay: a time reply to a question that")


def test_time_reply_to_a_question_of_long_ago(victim: Victim) -> None:
    desk = victim.agent.desk
    envelope = time_reply(victim, desk.ask_time(), NOW_S + 60)
    for _ in range(TIME_QUESTIONS_MAX):
        desk.ask_time()
    victim.send(topic(FLEET, DEVICE, "rsp", "time"), envelope)
    victim.refused("edge_agent.trust.time_floor", "replay: a time reply to a question that")


def test_time_reply_by_a_stranger(victim: Victim) -> None:
    nonce = json.loads(victim.agent.desk.ask_time())["nonce"]
    reply = TimeReply(fleet=FLEET, device=DEVICE, nonce=nonce, now=NOW_S + DAY_S)
    envelope = sign_document(Ed25519PrivateKey.generate(), TIME_TYPE, encode_json(reply))
    victim.send(topic(FLEET, DEVICE, "rsp", "time"), envelope)
    victim.refused("edge_contract.signing", "time reply: no signature by a trusted key")


# --- commands --------------------------------------------------------------------------------


def test_replayed_nonce_of_a_command(victim: Victim) -> None:
    envelope = command(victim)
    send_command(victim, envelope)
    assert victim.agent.desk._nonces.expires
    send_command(victim, envelope)
    victim.refused("edge_agent.trust.commands", "replay: the command with nonce")


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        ({"device": "cam-2"}, "it is for device 'cam-2'"),
        ({"device_key": "f" * 64}, "it is for device key"),
        ({"expires": NOW_S - 5, "issued_at": NOW_S - 50}, "expired at"),
        ({"expires": NOW_S + 99 * DAY_S}, "expected a life of at most"),
        ({"epoch": 7}, "epoch 7 was not begun by offline keys"),
        ({"name": "format-disk"}, "this agent knows only 'report'"),
    ],
    ids=["another device", "another key", "expired", "endless", "epoch", "unknown"],
)
def test_command_that_is(change: dict[str, object], saying: str, victim: Victim) -> None:
    if change.get("expires") == NOW_S - 5:
        victim.agent.desk._floor = victim.agent.desk._floor.raised_to(NOW_S)
    send_command(victim, command(victim, **change))
    victim.refused("edge_agent.trust.commands", saying)


def test_command_dressed_as_an_order(victim: Victim) -> None:
    victim.order(command(victim))
    victim.refused("edge_contract.signing", "expected payload type .*desired")


# --- captured parties ------------------------------------------------------------------------


def test_captured_broker_forges_an_order(victim: Victim) -> None:
    victim.publisher.keys["director"] = [Ed25519PrivateKey.generate()]
    victim.order(victim.envelope())
    victim.refused("edge_contract.signing", "no signature by a trusted key")


def test_captured_broker_lists_signers_that_are_no_text(victim: Victim) -> None:
    envelope = json.loads(victim.envelope())
    envelope["signatures"] = [{"keyid": signer, "sig": "AA=="} for signer in (1, "a")]
    victim.order(json.dumps(envelope).encode())
    victim.refused("edge_contract.signing", "not a DSSE envelope: expected key ids in text")


def test_captured_broker_alters_an_order(victim: Victim) -> None:
    good = victim.envelope()
    victim.order(good.replace(good[40:44], b"AAAA"))
    victim.refused("edge_contract.signing", "refused: desired document")


def test_captured_broker_moves_a_signed_answer_to_another_device(victim: Victim) -> None:
    key = victim.publisher.keys["director"][0]
    payload = b'{"cls":"telemetry","boot_id":"b","ranges":[[1,9]]}'
    signature = sign_message(key, topic(FLEET, "cam-2", "rsp", "ack"), payload)
    victim.send(topic(FLEET, DEVICE, "rsp", "ack"), payload, signature)
    victim.refused("edge_agent.orders", "not signed by a director key in force")


def test_captured_broker_sends_another_device_s_topic(victim: Victim) -> None:
    victim.send(topic(FLEET, "cam-2", "desired", "model"), victim.envelope())
    victim.refused("edge_agent.fleet_link", "this device is cam-1")


def test_captured_broker_sends_a_topic_of_its_own(victim: Victim) -> None:
    victim.send("edge/v1/shop/../../etc/passwd", b"x")
    victim.refused("edge_contract.topics", "expected edge/v1/fleet/device/class/name")


def test_captured_manager_orders_what_people_did_not_approve(victim: Victim) -> None:
    """It holds the director's, the snapshot's and the timestamp's keys, and no line's."""
    victim.publisher.keys["line-digits"] = [Ed25519PrivateKey.generate()]
    victim.publisher.approve("6.6.6")
    victim.metadata()
    victim.order(victim.envelope(version="6.6.6"))
    victim.refused("edge_agent.trust.verifier (python-tuf)", "metadata refused: not signed by a")


def test_captured_manager_raises_the_epoch_to_burn_every_number(victim: Victim) -> None:
    victim.order(victim.envelope(epoch=2**40))
    victim.refused(ORDER, "was not begun by offline keys")


def test_captured_manager_names_a_director_of_its_own(victim: Victim) -> None:
    victim.publisher.keys["targets"] = [Ed25519PrivateKey.generate()]
    victim.publisher.keys["director"] = [Ed25519PrivateKey.generate()]
    victim.publisher.name_director()
    victim.publisher.bump()
    victim.metadata()
    victim.order(victim.envelope())
    victim.refused("edge_agent.trust.verifier (python-tuf)", "targets metadata refused: not signed")


def test_stolen_director_key_pushes_time_beyond_all_signatures(victim: Victim) -> None:
    victim.order(victim.envelope(issued_at=2_145_916_800.0, expires=2_145_920_000.0))
    victim.refused(ORDER, "order refused")
    assert victim.agent.desk._floor.floor_s == NOW_S


def test_stolen_director_key_burns_the_sequence_and_is_recovered_from(victim: Victim) -> None:
    victim.order(victim.envelope(seq=2**60))
    victim.note()
    victim.order(victim.envelope(seq=3, rollout="ours"))
    victim.refused(ORDER, "replay", seq=2**60)
    victim.publisher.keys["director"] = [Ed25519PrivateKey.generate()]
    victim.publisher.name_director(epoch=2)
    victim.publisher.bump()
    victim.metadata()
    victim.order(victim.envelope(epoch=2, seq=1))
    assert (victim.agent.desk.desired_epoch, victim.agent.desk.desired_seq) == (2, 1)


def test_stolen_director_key_after_its_revocation(victim: Victim) -> None:
    stolen = victim.publisher.keys["director"]
    victim.publisher.keys["director"] = [Ed25519PrivateKey.generate()]
    victim.publisher.name_director()
    victim.publisher.bump()
    victim.metadata()
    victim.publisher.keys["director"] = stolen
    victim.order(victim.envelope())
    victim.refused("edge_contract.signing", "no signature by a trusted key")


@pytest.mark.parametrize(
    ("scope", "saying"),
    [({"fleet": "farm"}, "may not give orders for fleet"), ({"expires": NOW_S - 1}, "has expired")],
    ids=["another fleet", "expired"],
)
def test_director_key_out_of_scope(scope: dict[str, object], saying: str, victim: Victim) -> None:
    victim.publisher.name_director(**scope)  # type: ignore[arg-type]
    victim.publisher.bump()
    victim.metadata()
    victim.order(victim.envelope())
    victim.refused(ORDER, saying)


def test_directors_list_without_any_key(victim: Victim) -> None:
    from tuf.api.metadata import TargetFile

    victim.publisher.directors = encode_json(Directors(keys=[]))
    target = TargetFile.from_data("directors.json", victim.publisher.directors)
    victim.publisher.targets.targets["directors.json"] = target
    victim.publisher.targets.version += 1
    victim.publisher.bump()
    victim.metadata()
    victim.order(victim.envelope())
    victim.refused("edge_contract.signing", "no trusted key is known")


# --- damage ----------------------------------------------------------------------------------


def test_damaged_trust_file_does_not_begin_anew(victim: Victim) -> None:
    from edge_agent.orders import OrderDesk

    trust = victim.home / "state" / "trust" / "trusted.json"
    trust.write_bytes(b"{}")
    victim.agent.desk = OrderDesk(
        victim.home / "state",
        victim.publisher.roots[0],
        fleet=FLEET,
        device=DEVICE,
        device_key=victim.device_key,
        line=LINE,
        hardware="generic-x86-64",
        clock=victim.clock,
    )
    victim.agent.fleet._desk = victim.agent.desk
    victim.order(victim.envelope())
    victim.refused("edge_agent.trust.verifier", "new installs stop, what runs keeps running")
    assert trust.read_bytes() == b"{}"
