"""From nothing to a certificate, over a real broker, and what becomes of it."""

from __future__ import annotations

import stat

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.errors import AgentError
from edge_contract.enrol_code import parse_code
from edge_contract.errors import TrustError
from edge_contract.signing import public_bytes
from tests.identity.secure_fleet import FLEET, Peer, SecureFleet, eventually

pytestmark = pytest.mark.debian


def test_a_code_gives_a_certificate_for_a_key_that_never_left(secure: SecureFleet) -> None:
    kit = secure.kit("cam-1")
    kit.enrol(secure.code())
    leaf = kit.leaf()
    assert public_bytes(leaf.public_key()) == kit.identity.public  # type: ignore[arg-type]
    assert leaf.subject.rfc4514_string() == f"CN={FLEET}/cam-1,O={FLEET}"
    assert stat.S_IMODE(kit.identity.path.stat().st_mode) == 0o600
    peer = kit.peer()
    assert secure.service.device("cam-1").key_fingerprint == kit.identity.fingerprint
    assert peer.connects == 1


def test_the_same_code_and_key_may_finish_and_another_key_may_not(secure: SecureFleet) -> None:
    code = secure.code()
    kit = secure.kit("cam-1")
    kit.enrol(code)
    first = kit.leaf().serial_number
    kit.files.choose().unlink()  # the power went before the answer was on disk
    kit.enrol(code)
    assert kit.leaf().serial_number == first
    with pytest.raises(AgentError, match="used already, by another key"):
        secure.kit("cam-1", place="elsewhere").enrol(code)
    with pytest.raises(AgentError, match="used already, by another key"):
        secure.kit("cam-2").enrol(code)


def test_a_server_without_the_codes_ca_learns_nothing(secure: SecureFleet) -> None:
    code = parse_code(secure.code())
    other = type(code)(code.fleet, code.id, code.secret, bytes(16))
    kit = secure.kit("cam-1")
    with pytest.raises(TrustError, match="another CA than the code names"):
        kit.contact().enrol(other)
    assert not kit.files.ca_path.exists()
    assert not secure.findings("refused_ask")


def test_a_name_that_is_taken_needs_a_replacement(secure: SecureFleet) -> None:
    old = secure.enrolled("cam-1")
    new = secure.kit("cam-1", place="new-board")
    with pytest.raises(AgentError, match="devices replace cam-1"):
        new.enrol(secure.code())
    new.enrol(secure.service.replace_device("cam-1", who="test"))
    assert secure.service.device("cam-1").key_fingerprint == new.identity.fingerprint
    with pytest.raises(AgentError, match="revoked"):
        old.contact().recertify()
    secure.reload_broker()
    assert new.peer().connects == 1


def test_a_pinned_key_replaces_an_expired_certificate(secure: SecureFleet) -> None:
    kit = secure.enrolled("cam-1")
    kit.files.choose().unlink()
    assert kit.contact().recertify()
    assert kit.peer().connects == 1
    stranger = secure.kit("cam-2")
    stranger.files.keep_ca(secure.issuers.ca_pem, secure.issuers.ca_fingerprint)
    with pytest.raises(AgentError, match="needs a code"):
        stranger.contact().recertify()


def test_revoked_devices_are_out_at_manager_and_broker(secure: SecureFleet) -> None:
    kit = secure.enrolled("cam-1")
    peer = kit.peer()
    secure.service.revoke_device("cam-1", who="test", reason="stolen")
    peer.say(kit.topic("event/hello"), b"{}")
    eventually(lambda: secure.findings("revoked_key"))
    assert [device.state for device in secure.service.devices()] == ["revoked"]
    assert secure.service.device("cam-1").device.state == "revoked"
    secure.reload_broker()
    peer.close()
    assert kit.peer(connect=False).refused()
    with pytest.raises(AgentError, match="revoked"):
        kit.contact().recertify()


def test_removed_devices_leave_nothing_retained(secure: SecureFleet) -> None:
    kit = secure.enrolled("cam-1")
    peer = kit.peer()
    peer.say(kit.topic("state/agent"), b"{}", retain=True)
    peer.close()
    secure.service.remove_device("cam-1", who="test")
    eventually(lambda: not secure.service.devices())
    assert secure.manager is not None
    watcher = secure.kit("cam-2")
    watcher.enrol(secure.code())
    assert secure.service.devices()[0].device == "cam-2"


def test_distrusting_an_issuer_locks_out_what_it_signed(secure: SecureFleet) -> None:
    kit = secure.enrolled("cam-1")
    secure.install_issuer(distrust_old=True)
    secure.reload_broker()
    assert kit.peer(connect=False).refused()
    # The pinned key brings it back, without a code and without a person.
    assert kit.contact().recertify()
    assert kit.peer().connects == 1


def test_a_new_issuer_does_not_lock_the_manager_out_of_a_broker_without_its_list(
    secure: SecureFleet,
) -> None:
    secure.install_issuer(days=200)
    own = secure.issuers.own_file("_manager").read_bytes()
    secure.stop_manager()
    secure.start_manager()  # the broker knows the old issuer's list alone
    late = secure.kit("cam-1")
    late.enrol(secure.code())
    assert late.peer(connect=False).refused()
    secure.reload_broker()
    secure.stop_manager()
    secure.start_manager()
    assert secure.issuers.own_file("_manager").read_bytes() == own
    assert late.peer().connects == 1


def test_a_distrusted_issuers_certificate_is_not_kept_for_the_manager(secure: SecureFleet) -> None:
    secure.install_issuer(distrust_old=True)
    before = secure.issuers._own_before("_manager")
    assert before.exists()
    assert not secure.issuers._still_good(before, secure.clock.wall_s())


def test_what_waits_for_a_device_that_is_away_outlives_the_broker(
    secure: SecureFleet,
) -> None:
    """More than the 1,000 messages that mosquitto keeps by default, over a restart."""
    kit = secure.enrolled("cam-1")

    def connected() -> Peer:
        peer = kit.peer(connect=False)
        lasting = Properties(PacketTypes.CONNECT)
        lasting.SessionExpiryInterval = 3600
        peer.client.connect("localhost", peer.port, clean_start=False, properties=lasting)
        peer.client.loop_start()
        eventually(lambda: peer.connects)
        return peer

    away = connected()
    away.subscribe(kit.topic("cmd/+"))
    away.close()
    manager = secure.manager
    assert manager is not None
    eventually(lambda: manager.connected)
    sent = [
        manager._connection.publish(kit.topic("cmd/note"), b"%d" % number, qos=1)
        for number in range(1200)
    ]
    eventually(lambda: all(message and message.is_published() for message in sent))
    secure.stop_broker()
    secure.start_broker()
    back = connected()
    heard = [bytes(back.heard.get(timeout=10).payload) for _ in sent]
    assert heard == [b"%d" % number for number in range(1200)]
    back.close()
