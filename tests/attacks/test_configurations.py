"""Attacks with remote configuration: from the wire to a stolen director key."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.remote_config import GRACE_S
from edge_contract.codec import encode_json
from edge_contract.command import COMMAND_TYPE
from edge_contract.configuration import (
    CONFIGURATION_LIMIT_BYTES,
    CONFIGURATION_TYPE,
    Configuration,
)
from edge_contract.signing import sign_document
from edge_contract.topics import topic
from tests.attacks.victim import DEVICE, FLEET, Victim
from tests.trust.tuf_simulator import DAY_S, NOW_S

TRUST = "edge_agent.trust.configuration"
CONTRACT = "edge_contract.configuration"


def configuration(
    victim: Victim,
    *,
    key: Ed25519PrivateKey | None = None,
    payload_type: str = CONFIGURATION_TYPE,
    **changes: object,
) -> bytes:
    """A configuration that is right for the victim but for what is changed."""
    fields: dict[str, object] = {
        "fleet": FLEET,
        "device": DEVICE,
        "device_key": victim.device_key,
        "epoch": 1,
        "seq": 2,
        "nonce": "0" * 32,
        "issued_at": NOW_S,
        "expires": NOW_S + DAY_S,
        "settings": {"telemetry.window_s": 7.0},
    }
    payload = encode_json(Configuration(**{**fields, **changes}))  # type: ignore[arg-type]
    return sign_document(key or victim.publisher.keys["director"][0], payload_type, payload)


def send(victim: Victim, envelope: bytes) -> None:
    """Deliver it and let its time of grace pass."""
    victim.send(topic(FLEET, DEVICE, "desired", "config"), envelope)
    victim.agent.remote.tick(victim.clock.monotonic_s())
    victim.clock.later_s += GRACE_S + 1
    victim.agent.remote.tick(victim.clock.monotonic_s())


def held_out(victim: Victim, by: str, saying: str, *, window_s: float = 300.0) -> None:
    """Refused aloud, told to the fleet, and nothing of it holds."""
    victim.refused(by, saying)
    facts = victim.agent.remote.facts()
    assert facts["config_refused"]
    assert facts["settings"]["telemetry.window_s"] == window_s
    assert victim.agent.recorder.window_s == window_s


def test_a_good_configuration_counts_so_the_refusals_mean_something(victim: Victim) -> None:
    send(victim, configuration(victim))
    assert victim.agent.recorder.window_s == 7.0
    assert victim.agent.remote.facts()["config_seq"] == 2
    assert victim.agent.remote.facts()["config_refused"] == ""
    victim.infers()


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        ({"device": "cam-2"}, "it is for device 'cam-2', this is 'cam-1'"),
        ({"device_key": "f" * 64}, "it is for device key"),
        ({"fleet": "farm"}, "it is for fleet 'farm'"),
    ],
    ids=["device", "device key", "fleet"],
)
def test_configuration_for_another(change: dict[str, object], saying: str, victim: Victim) -> None:
    send(victim, configuration(victim, **change))
    held_out(victim, "edge_agent.trust.order", saying)


def test_older_configuration_played_back(victim: Victim) -> None:
    older = configuration(victim, settings={"telemetry.window_s": 5.0})
    send(victim, older)
    send(victim, configuration(victim, seq=3))
    send(victim, older)
    held_out(victim, TRUST, r"replay: expected one after .* seq 3", window_s=7.0)


def test_configuration_of_a_number_that_was_used(victim: Victim) -> None:
    send(victim, configuration(victim))
    other = configuration(victim, nonce="1" * 32, settings={"telemetry.window_s": 9.0})
    send(victim, other)
    held_out(victim, TRUST, "replay: expected one after", window_s=7.0)


def test_expired_configuration(victim: Victim) -> None:
    victim.agent.desk._floor = victim.agent.desk._floor.raised_to(NOW_S)
    send(victim, configuration(victim, issued_at=NOW_S - 50, expires=NOW_S - 5))
    held_out(victim, "edge_agent.trust.order", "expired at")


def test_configuration_of_an_epoch_that_nobody_began(victim: Victim) -> None:
    send(victim, configuration(victim, epoch=7))
    held_out(victim, "edge_agent.trust.order", "epoch 7 was not begun by offline keys")


def test_unsigned_configuration(victim: Victim) -> None:
    envelope = json.loads(configuration(victim))
    envelope["signatures"] = []
    send(victim, json.dumps(envelope).encode())
    held_out(victim, "edge_contract.signing", "configuration: no signature by a trusted key")


def test_configuration_by_a_stranger(victim: Victim) -> None:
    send(victim, configuration(victim, key=Ed25519PrivateKey.generate()))
    held_out(victim, "edge_contract.signing", "configuration: no signature by a trusted key")


def test_command_dressed_as_a_configuration(victim: Victim) -> None:
    send(victim, configuration(victim, payload_type=COMMAND_TYPE))
    held_out(victim, "edge_contract.signing", "expected payload type .*configuration")


def test_configuration_with_an_unknown_setting(victim: Victim) -> None:
    wish = {"telemetry.window_s": 5.0, "trust.root": "/tmp/mine"}
    send(victim, configuration(victim, settings=wish))
    held_out(victim, CONTRACT, "no setting 'trust.root'; there are")


@pytest.mark.parametrize("value", [0.0, -1.0, 1e9, "5"], ids=["0", "-1", "1e9", "a word"])
def test_configuration_out_of_bounds(value: float | str, victim: Victim) -> None:
    wish = {"log.level": "debug", "telemetry.window_s": value}
    send(victim, configuration(victim, settings=wish))
    held_out(victim, CONTRACT, "telemetry.window_s: expected a number from 1 to 86400")


def test_configuration_too_large(victim: Victim) -> None:
    wish = {f"x{number}": 1.0 for number in range(CONFIGURATION_LIMIT_BYTES // 10)}
    send(victim, configuration(victim, settings=wish))
    held_out(victim, TRUST, f"at most {CONFIGURATION_LIMIT_BYTES} accepted")


def test_looser_limits_by_a_stolen_director_key(victim: Victim) -> None:
    wish = {"link.budget_mb_per_day": 1e6, "update.temperature_max_c": 150.0}
    send(victim, configuration(victim, settings=wish))
    victim.refused(CONTRACT, "the device's own stricter value holds for link.budget_mb_per_day, up")
    facts = victim.agent.remote.facts()
    assert facts["settings"]["link.budget_mb_per_day"] == 1.0
    assert facts["settings"]["update.temperature_max_c"] == 85.0
    assert facts["settings_limited"] == list(wish)
