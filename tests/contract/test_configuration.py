"""Configurations: their bytes on the wire, their bounds, and that limits only ever tighten."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_contract.codec import encode_json
from edge_contract.configuration import (
    CONFIGURATION_LIMIT_BYTES,
    CONFIGURATION_TYPE,
    SETTINGS,
    Value,
    check_settings,
    decode_configuration,
    effective,
    parse_setting,
)
from edge_contract.errors import ContractError
from edge_contract.signing import public_bytes, sign_document, verify_document

VECTOR = Path(__file__).parent / "vectors" / "configuration.json"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PAYLOAD = (
    b'{"schema":1,"fleet":"shop","device":"cam-1","device_key":"k","epoch":1,"seq":3,'
    b'"nonce":"00112233445566778899aabbccddeeff","issued_at":1000.0,"expires":1060.0,'
    b'"settings":{"log.level":"debug","telemetry.window_s":60.0}}'
)
OWN: dict[str, Value] = {
    "log.level": "info",
    "telemetry.window_s": 300.0,
    "drift.window_s": 3600.0,
    "link.budget_mb_per_day": 1.0,
    "update.temperature_max_c": 85.0,
}


def test_bytes_and_signature_are_those_of_the_vector() -> None:
    assert encode_json(decode_configuration(PAYLOAD)) == PAYLOAD
    envelope = sign_document(KEY, CONFIGURATION_TYPE, PAYLOAD)
    assert envelope == VECTOR.read_bytes().strip()
    payload, _ = verify_document(envelope, CONFIGURATION_TYPE, [public_bytes(KEY)], what="test")
    assert payload == PAYLOAD


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        ((b'"telemetry.window_s":60.0', b'"source.path":"/"'), "no setting 'source.path'"),
        ((b"60.0}", b"0.5}"), "telemetry.window_s: expected a number from 1 to 86400, got 0.5"),
        ((b"60.0}", b"true}"), "not a valid Configuration"),
        ((b'"debug"', b'"trace"'), "log.level: expected one of debug, info, warning"),
        ((b'"debug"', b"3"), "log.level: expected one of"),
        ((b'"seq":3', b'"seq":0'), "expected a seq and an epoch from 1"),
        ((b'"seq":3', b'"seq":3,"more":1'), "not a valid Configuration"),
        ((b"00112233", b"0011223g"), "32 hexadecimal digits"),
    ],
    ids=["unknown", "low", "bool", "word", "number for a word", "seq", "field", "nonce"],
)
def test_configuration_is_refused(change: tuple[bytes, bytes], saying: str) -> None:
    with pytest.raises(ContractError, match=saying):
        decode_configuration(PAYLOAD.replace(*change))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_configuration_or_a_contract_error(data: bytes) -> None:
    with contextlib.suppress(ContractError):
        decode_configuration(data)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_bounds_hold_at_their_edges(name: str) -> None:
    setting = SETTINGS[name]
    if setting.words:
        assert [parse_setting(name, word) for word in setting.words] == list(setting.words)
        wrong: list[Value] = ["", "INFO", 1.0]
    else:
        check_settings({name: setting.low}, what="test")
        assert parse_setting(name, str(setting.high)) == setting.high
        low, high = setting.low, setting.high
        wrong = [math.nextafter(low, -1), math.nextafter(high, 2 * high), math.nan, math.inf, "x"]
    for value in wrong:
        with pytest.raises(ContractError, match="expected"):
            check_settings({name: value}, what="test")
    with pytest.raises(ContractError, match="expected"):
        parse_setting(name, "-1")


def test_the_largest_configuration_fits_its_limit() -> None:
    wide: dict[str, Value] = {
        name: item.words[-1] if item.words else math.nextafter(item.high, 0)
        for name, item in SETTINGS.items()
    }
    payload = encode_json(replace(decode_configuration(PAYLOAD), settings=wide))
    assert len(sign_document(KEY, CONFIGURATION_TYPE, payload)) < CONFIGURATION_LIMIT_BYTES / 4


values = st.floats(0.02, 80.0)


@given(st.dictionaries(st.sampled_from(sorted(set(SETTINGS) - {"log.level"})), values))
def test_limits_that_guard_the_device_only_ever_tighten(wanted: dict[str, Value]) -> None:
    holds, limited = effective(OWN, wanted)
    assert set(holds) == set(OWN)
    for name in sorted(set(SETTINGS) - {"log.level"}):
        own, theirs = float(OWN[name]), float(wanted.get(name, OWN[name]))
        tightens = SETTINGS[name].tightens
        assert holds[name] == (min(own, theirs) if tightens else theirs)
        assert (name in limited) == (tightens and own < theirs)


def test_a_limit_that_the_device_has_none_of_limits_nothing_of_the_fleets() -> None:
    own = {name: value for name, value in OWN.items() if name != "link.budget_mb_per_day"}
    assert effective(own, {}) == (own, [])
    holds, limited = effective(own, {"link.budget_mb_per_day": 5.0})
    assert (holds, limited) == ({**own, "link.budget_mb_per_day": 5.0}, [])
