"""The manager's clock jumps and comes back: what was signed meanwhile locks nobody out."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet.errors import FleetError
from fleet.identity.authority import DAY_S
from fleet.identity.certificates import MANAGER, life_of
from fleet.identity.issuers import DEVICE_LIFE_S, _load
from tests.attacks.test_identity_codes import NOW_S, Desk, desk, installed, refused

__all__ = ["desk", "installed"]
AHEAD_S = NOW_S + 100 * DAY_S
"""Within the life of the issuer, of 180 days."""


def enrolled(desk: Desk) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    assert desk.ask(desk.code(), key).answer.accepted
    return key


def begin_s(desk: Desk, key: Ed25519PrivateKey, now_s: float) -> float:
    """When what the device is given at ``now_s`` begins."""
    answer = desk.ask(None, key, now_s=now_s).answer
    assert answer.accepted, answer.reason
    return x509.load_pem_x509_certificate(answer.chain.encode()).not_valid_before_utc.timestamp()


def test_a_device_is_not_given_a_certificate_of_the_future(desk: Desk) -> None:
    key = enrolled(desk)
    assert begin_s(desk, key, AHEAD_S) > NOW_S + 99 * DAY_S
    back = NOW_S + 61 * DAY_S
    assert begin_s(desk, key, back) <= back
    row = desk.row("cam-1")
    assert row is not None
    with desk.store.read() as tx:
        assert not desk.desk.due(tx, row, back), "or it would ask every hour"


def test_the_manager_is_not_left_with_a_certificate_of_the_future(desk: Desk) -> None:
    issuers = desk.desk.issuers
    own = issuers.own_file(MANAGER)
    issuers.renew_own(NOW_S)
    assert issuers.renew_own(AHEAD_S)
    assert life_of(_load(own))[0] > NOW_S
    assert issuers.renew_own(NOW_S + DAY_S)
    begin, end = life_of(_load(own))
    assert begin <= NOW_S + DAY_S < end
    assert end - begin > DEVICE_LIFE_S / 2
    assert not issuers.renew_own(NOW_S + 2 * DAY_S)


def test_a_manager_in_1970_signs_nothing_that_ends_in_1970(desk: Desk) -> None:
    key = enrolled(desk)
    reason = refused(desk.ask(None, key, now_s=60.0))
    assert "clock" in reason
    before = desk.desk.issuers.own_file(MANAGER).read_bytes()
    assert not desk.desk.issuers.renew_own(60.0)
    assert desk.desk.issuers.own_file(MANAGER).read_bytes() == before
    assert "1970-01-01" in desk.desk.issuers.trouble(60.0)


def test_a_manager_beyond_its_issuer_says_so_and_comes_back(desk: Desk) -> None:
    key = enrolled(desk)
    in_2038 = 2_147_483_648.0
    assert "expired" in refused(desk.ask(None, key, now_s=in_2038))
    issuers = desk.desk.issuers
    issuers.write_crl([], now_s=NOW_S)
    before = issuers.crl_path.read_bytes()
    issuers.write_crl([], now_s=in_2038)
    assert issuers.crl_path.read_bytes() == before, "no broker starts with an empty list"
    with pytest.raises(FleetError, match="expired"):
        desk.desk.issuers.renew_own(in_2038)
    desk.desk.issuers.write_crl([], now_s=NOW_S + DAY_S)
    assert desk.desk.issuers.crl_path.read_bytes()
    assert desk.ask(None, key, now_s=NOW_S + DAY_S).answer.accepted


@pytest.mark.parametrize("now_s", [60.0, NOW_S, AHEAD_S])
def test_a_list_of_what_is_revoked_is_in_force_whenever_it_was_written(
    desk: Desk, now_s: float
) -> None:
    """A broker refuses everybody whose issuer's list begins in the future."""
    issuers = desk.desk.issuers
    issuers.write_crl([(issuers.issuers[0].id, "ab", now_s)], now_s=now_s)
    made = x509.load_pem_x509_crl(issuers.crl_path.read_bytes())
    assert made.last_update_utc.timestamp() <= NOW_S
    assert made.next_update_utc is not None
    assert made.next_update_utc.timestamp() > AHEAD_S
    assert made.get_revoked_certificate_by_serial_number(0xAB) is not None
