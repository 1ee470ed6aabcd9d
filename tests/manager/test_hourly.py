"""What a manager does by itself every hour: without it a fleet freezes in a week."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from fleet.identity.authority import DAY_S, make_authority, open_authority
from fleet.identity.certificates import MANAGER, life_of
from fleet.identity.issuers import Issuers
from fleet.manager.broker_address import BrokerAddress
from fleet.manager.configure_order import ConfigureOrder
from fleet.manager.loop import Manager
from fleet.repository.tuf_repository import Repository
from fleet.rollout.gate import Gate
from fleet.service import RolloutOrder
from fleet.store import open_store
from tests.manager.conftest import FleetUnderTest, MovableClock
from tests.manager.simulated_device import FLEET, wait_until

PASSPHRASE = "correct horse battery"


def test_timestamp_orders_and_settings_are_signed_anew_before_they_run_out(
    fleet: FleetUnderTest,
) -> None:
    (device,) = fleet.enrolled("cam-1")
    fleet.publish("1.0.0")
    fleet.published("1.0.0")
    fleet.service.configure(ConfigureOrder(settings={"log.level": "debug"}), who="ann")
    order = RolloutOrder(line="digits", version="1.0.0", gate=Gate(quorum_share=1.0))
    fleet.service.start_rollout(order, who="ann")
    first = device.order()
    wait_until(lambda: device.configurations, what="for the settings")
    began, heard = fleet.repository.timestamp_version(), len(device.metadata)

    fleet.clock.ahead_s = 44 * DAY_S  # the timestamp would have expired after 7
    wait_until(lambda: fleet.repository.timestamp_version() > began, what="for a timestamp")
    wait_until(lambda: len(device.metadata) > heard, what="for it to be published")
    assert len(device.desired) == len(device.configurations) == 1

    # A fresh timestamp, so nothing but the hour can bring these on.
    before = fleet.repository.timestamp_version()
    fleet.clock.ahead_s = 46 * DAY_S
    again = device.order(seq_above=first.seq)
    assert again.version == first.version
    assert again.expires > first.expires + 45 * DAY_S
    wait_until(lambda: device.configurations[-1].seq == 2, what="for settings signed anew")
    assert device.configurations[-1].expires > first.expires + 45 * DAY_S
    assert device.configurations[-1].settings == {"log.level": "debug"}
    assert fleet.repository.timestamp_version() == before


def test_issuer_own_certificate_and_revocation_list_are_looked_after_every_hour(
    tmp_path: Path,
) -> None:
    clock = MovableClock()
    state = tmp_path / "state"
    repository = Repository(state, FLEET, clock.wall_s)
    repository.initialise()
    store = open_store(state / "fleet.db", fleet=FLEET)
    issuers = Issuers(state / "identity", FLEET)
    nobody = BrokerAddress("127.0.0.1", 9)
    manager = Manager(
        fleet=FLEET,
        store=store,
        repository=repository,
        address=nobody,
        clock=clock,
        issuers=issuers,
    )
    make_authority(tmp_path / "ca", FLEET, PASSPHRASE, now_s=clock.wall_s())
    authority = open_authority(tmp_path / "ca", PASSPHRASE)

    def install() -> Issuers:
        """`edge-fleet ca install`. By another process; here between two turns of the loop, as the
        names of temporary files tell processes apart and not two threads of one."""
        beside = Issuers(state / "identity", FLEET)
        signed = authority.sign_issuer(beside.request(), now_s=clock.wall_s(), days=180)
        ca = (tmp_path / "ca" / "ca.crt.pem").read_bytes()
        beside.install(signed.encode(), ca, now_s=clock.wall_s(), revoked=[], distrust_old=False)
        return beside

    def own() -> x509.Certificate:
        return x509.load_pem_x509_certificate(issuers.own_file(MANAGER).read_bytes())

    def asked() -> list[str]:
        return [reminder.command for reminder in manager.reminders.due]

    manager.start()
    try:
        manager.do(lambda: None)
        assert not issuers.installed
        manager.do(install)
        clock.ahead_s += 3601
        wait_until(lambda: issuers.installed, what="for the issuer to be noticed")

        began_s = life_of(own())[0]
        issuers.crl_path.unlink()
        clock.ahead_s += 61 * DAY_S
        wait_until(lambda: life_of(own())[0] > began_s, what="for a certificate of its own")
        wait_until(issuers.crl_path.exists, what="for the revocation list")
        assert not asked()

        clock.ahead_s += 60 * DAY_S
        wait_until(asked, what="for the reminder")
        assert asked() == ["edge-fleet ca request --out issuer.csr"]
        assert "the issuer certificate, and its revocation list" in manager.reminders.due[0].text
        assert "certificate" not in manager.facts.problem, "nothing is wrong yet"
        second = manager.do(install).issuers[-1].id
        clock.ahead_s += 3601
        wait_until(lambda: not asked(), what="for the reminder to go")
        assert issuers.issuers[-1].id == second
        clock.ahead_s = 19.5 * 365 * DAY_S
        wait_until(asked, what="for the reminder of the CA")
        assert "edge-fleet ca init" in asked()
        wait_until(lambda: "expired" in manager.facts.problem, what=f"for {manager.facts.problem}")
    finally:
        manager.stop()
        store.close()
    assert manager.failure is None
