"""Anything at all on every topic that an agent listens to, signed by its director and not.

A signature says who spoke, not that it made sense: a captured or broken manager may sign anything.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from paho.mqtt.client import topic_matches_sub

from edge_contract.codec import encode_json, encode_msgpack
from edge_contract.command import COMMAND_TYPE, Command
from edge_contract.configuration import CONFIGURATION_TYPE, Configuration
from edge_contract.desired import DESIRED_TYPE, Desired
from edge_contract.digest import digest_of, hex_of
from edge_contract.messages import (
    Ack,
    BlobBlock,
    BlobRefused,
    CertificateAnswer,
    DeltaOffer,
    EnrolAnswer,
    RecordRefused,
)
from edge_contract.metadata import MetadataHead, parts_digest
from edge_contract.signed_time import TIME_TYPE, TimeReply
from edge_contract.signing import sign_document, sign_message
from edge_contract.topics import (
    EVERYONE,
    HEAD_PREFIX,
    ROOT_PREFIX,
    broadcast_topic,
    device_filters,
    metadata_topic,
    topic,
)
from tests.agent.bundles import HARDWARE
from tests.attacks.victim import DEVICE, FLEET, Victim
from tests.trust.tuf_simulator import LINE, NOW_S

BLOB = digest_of(b"blob")
MUTANTS = 30
"""Of each good message; what is wrong on purpose comes on top."""
TELLING = bytes(range(32, 127)) + b"\x00\x80\xc0\xff" * 4
"""Most are text, so that much of it still parses."""
HOSTILE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe",
    b"[" * 20_000,
    b'{"a":' * 20_000,
    b"\x9f" * 1000,
    b"\xdf\xff\xff\xff\xff",
    b'{"seq":1e999}',
    b'{"accepted":true,"chain":"x"}',
    b'{"accepted":false,"reason":"' + b"x" * 100_000 + b'"}',
    b'{"cls":"telemetry","boot_id":"b","ranges":[[9223372036854775807,99999999999999999999]]}',
    b'{"cls":"x","boot_id":"","ranges":[[-1,-9]],"reason":""}',
    b'{"digest":"sha256:' + b"a" * 64 + b'","delta":"x","base":"..","size_bytes":-1,"wait_s":1e99}',
]

Sealed = Callable[[bytes], bytes]


def document(victim: Victim, kind: str) -> Sealed:
    """Junk as the payload of an envelope that the director signed."""
    key = victim.publisher.keys["director"][0]
    return lambda junk: sign_document(key, kind, junk)


def bare(junk: bytes) -> bytes:
    return junk


def good_messages(victim: Victim) -> dict[str, tuple[Sealed, bytes]]:
    """Topic -> (how its payload is wrapped, a message that is right but for the device)."""
    whose = {"fleet": FLEET, "device": "cam-2", "device_key": "0" * 64, "epoch": 1}
    times = {"issued_at": NOW_S, "expires": NOW_S + 60}
    nonce = {"nonce": "0" * 32}
    ordered = Desired(
        **whose, **times, seq=9, timestamp_version_min=1, line=LINE, version="1.0.0",
        hardware=HARDWARE, manifest_digest=BLOB, rollout="r9",
    )  # fmt: skip
    config = Configuration(**whose, **times, **nonce, seq=9, settings={"log.level": "debug"})
    block = BlobBlock(digest=BLOB, offset_bytes=0, size_bytes=9, data=b"x" * 9)
    ranges = [(0, 9)]
    refused = RecordRefused(cls="telemetry", boot_id="b", ranges=ranges, reason="no")
    offer = DeltaOffer(digest=BLOB, base=BLOB, delta=BLOB, size_bytes=9)
    reply = TimeReply(fleet=FLEET, device="cam-2", nonce="0" * 32, now=NOW_S)
    signed = lambda kind: document(victim, kind)  # noqa: E731
    own: dict[str, tuple[Sealed, bytes]] = {
        "desired/model": (signed(DESIRED_TYPE), encode_json(ordered)),
        "desired/config": (signed(CONFIGURATION_TYPE), encode_json(config)),
        "desired/child.x": (signed(DESIRED_TYPE), encode_json(ordered)),
        "cmd/report": (
            signed(COMMAND_TYPE),
            encode_json(Command(**whose, **times, **nonce, name="report")),
        ),
        "rsp/time": (signed(TIME_TYPE), encode_json(reply)),
        "rsp/ack": (bare, encode_json(Ack(cls="telemetry", boot_id="b", ranges=ranges))),
        "rsp/refused": (bare, encode_json(refused)),
        "rsp/enrol": (bare, encode_json(EnrolAnswer(accepted=False, reason="no"))),
        "rsp/certificate": (bare, encode_json(CertificateAnswer(accepted=True, chain="x"))),
        "rsp/nothing": (bare, b"{}"),
        "blob/data": (bare, encode_msgpack(block)),
        "blob/delta": (bare, encode_json(offer)),
        "blob/refused": (bare, encode_json(BlobRefused(digest=BLOB, reason="no"))),
    }
    metadata = victim.publisher.metadata_set()
    head = MetadataHead(line=LINE, root_version=2, digest=parts_digest(metadata))
    return {
        **{topic(FLEET, DEVICE, *name.split("/")): made for name, made in own.items()},
        metadata_topic(FLEET, LINE): (bare, encode_json(metadata)),
        metadata_topic(FLEET, HEAD_PREFIX + LINE): (bare, encode_json(head)),
        metadata_topic(FLEET, f"{ROOT_PREFIX}2"): (bare, metadata.roots[0]),
        broadcast_topic(FLEET, hex_of(BLOB)): (bare, encode_msgpack(block)),
    }


def junk_like(good: bytes, dice: random.Random) -> Iterator[bytes]:
    """What is wrong on purpose, then bytes at random, then the good message with some changed."""
    yield from HOSTILE
    for number in range(MUTANTS):
        junk = bytearray(dice.randbytes(number * 3) if number % 3 == 0 else good)
        for _ in range(1 + number % 7):
            if junk:
                junk[dice.randrange(len(junk))] = dice.choice(TELLING)
        yield bytes(junk[: dice.randrange(len(junk) + 1)] if number % 5 == 4 else junk)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_fuzzed_messages_on_every_topic(signed: bool, victim: Victim) -> None:
    key = victim.publisher.keys["director"][0]
    messages = good_messages(victim)
    everyone = f"edge/v1/{FLEET}/{EVERYONE}"
    heard = [*device_filters(FLEET, DEVICE, LINE), f"{everyone}/blob/+", f"{everyone}/metadata/+"]
    for name in heard:
        assert any(topic_matches_sub(name, sent) for sent in messages), f"nothing is sent on {name}"
    for name, (wrapped, good) in messages.items():
        for junk in junk_like(good, random.Random(name)):
            payload = wrapped(junk) if signed else junk
            victim.send(name, payload, sign_message(key, name, payload) if signed else "")
            victim.clock.later_s += 11 if name.endswith("/desired/model") else 0
            victim.agent._obey(victim.clock.monotonic_s())
    assert victim.agent.remote.facts()["config_seq"] == 0
    what = (
        "desired document: not a valid Desired"
        if signed
        else r"not signed by a director key in force"
    )
    victim.refused("edge_contract.codec, edge_contract.signing", what)
