"""Commands, time and media: their bytes on the wire, and what is no such document."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_contract.codec import encode_json
from edge_contract.command import decode_command
from edge_contract.desired import DirectorKey, Directors, decode_directors
from edge_contract.errors import ContractError
from edge_contract.media import DEVICES_MAX, MediaDevice, MediaOrder, decode_media_order
from edge_contract.metadata import version_order
from edge_contract.signed_time import TimeReply, decode_time_ask, decode_time_reply

COMMAND = (
    b'{"schema":1,"fleet":"shop","device":"cam-1","device_key":"k","epoch":1,'
    b'"nonce":"00112233445566778899aabbccddeeff","issued_at":1000.0,"expires":1060.0,'
    b'"name":"report","arguments":{}}'
)
TIME = b'{"schema":1,"fleet":"shop","device":"cam-1","nonce":"n","now":1000.5}'


def test_bytes_of_a_command_and_of_the_time() -> None:
    command = decode_command(COMMAND)
    assert encode_json(command) == COMMAND
    assert encode_json(TimeReply(fleet="shop", device="cam-1", nonce="n", now=1000.5)) == TIME
    assert decode_time_reply(TIME).now == 1000.5
    assert decode_time_ask(b'{"nonce":"' + b"a" * 32 + b'"}', where="test").nonce == "a" * 32


@pytest.mark.parametrize("nonce", ["", "0" * 31, "G" * 32, "0" * 33, "../" * 11])
def test_odd_nonces_are_refused(nonce: str) -> None:
    with pytest.raises(ContractError, match="32 hexadecimal digits"):
        decode_command(COMMAND.replace(b"00112233445566778899aabbccddeeff", nonce.encode()))
    with pytest.raises(ContractError):
        decode_time_ask(encode_json({"nonce": nonce}), where="test")


@pytest.mark.parametrize("expires", [b"1000.0", b"999.0", b"9999999.0"])
def test_command_that_never_or_hardly_lives_is_refused(expires: bytes) -> None:
    with pytest.raises(ContractError, match="a life of at most"):
        decode_command(COMMAND.replace(b"1060.0", expires))


@given(st.binary(max_size=300))
@pytest.mark.parametrize(
    "decode", [decode_command, decode_time_reply, decode_media_order, decode_directors]
)
def test_any_bytes_are_a_document_or_a_contract_error(
    decode: Callable[[bytes], object], data: bytes
) -> None:
    with contextlib.suppress(ContractError):
        decode(data)


@pytest.mark.parametrize("count", [0, DEVICES_MAX + 1])
def test_media_order_for_nobody_or_for_too_many_is_refused(count: int) -> None:
    device = MediaDevice(device="d", device_key="k", hardware="raspberry-pi-4")
    order = MediaOrder(
        fleet="shop",
        line="digits",
        epoch=1,
        sequence=1,
        issued_at=0.0,
        expires=1.0,
        timestamp_version_min=1,
        version="1.0.0",
        manifest_digest="sha256:" + "0" * 64,
        rollout="usb",
        devices=[device] * count,
    )
    with pytest.raises(ContractError, match="expected 1 to 500 devices"):
        decode_media_order(encode_json(order))


@pytest.mark.parametrize("public", ["", "00", "zz" * 32, "0" * 63, " " + "0" * 64])
def test_director_and_audit_keys_are_32_bytes(public: str) -> None:
    key = DirectorKey(public=public, fleets=[], lines=[], expires=0.0)
    for directors in (Directors(keys=[key]), Directors(keys=[], audit_keys=[public])):
        with pytest.raises(ContractError, match="a key of 32 bytes in hex"):
            decode_directors(encode_json(directors))


def test_versions_are_ordered_as_semver_says() -> None:
    ordered = ["0.9.9", "1.0.0-2", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta", "1.0.0", "1.10.0"]
    shuffled = ordered[3:] + ordered[:3]
    assert sorted(shuffled, key=version_order) == ordered
    assert version_order("1.0.0+build.7") == version_order("1.0.0")


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.0", "1.0.x", "v1.0.0", "1.0.0.0", "٣.0.0", "1.0.0-²", "1.0." + "9" * 5000],
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="expected a version like"):
        version_order(text)
