"""A whole fleet in one test: real broker process, real store and repository, manager thread."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_contract.signing import public_bytes
from fleet.broker.process import BrokerProcess
from fleet.clock import SystemClock
from fleet.manager.broker_address import BrokerAddress
from fleet.manager.loop import Manager
from fleet.repository.tuf_repository import Repository
from fleet.service import FleetService
from fleet.store import Store, open_store
from tests.manager.bundles import make_bundle
from tests.manager.simulated_device import FLEET, SimulatedDevice, wait_until
from tests.programs import require_program


class MovableClock(SystemClock):
    """This machine's clocks, and as far ahead of them as a test says."""

    ahead_s = 0.0

    def wall_s(self) -> float:
        return super().wall_s() + self.ahead_s

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


class FleetUnderTest:
    """Broker, store, repository and manager below one directory."""

    def __init__(self, directory: Path, kind: str = "mosquitto") -> None:
        if kind == "mosquitto":
            require_program("mosquitto")
        self.directory = directory
        self.kind = kind
        self.port = free_port()
        self.clock = MovableClock()
        self.repository = Repository(directory / "state", FLEET, self.clock.wall_s)
        self.repository.initialise()
        self.director = public_bytes(self.repository.director_key())
        self.devices: list[SimulatedDevice] = []
        self.broker = self.start_broker()
        self.manager: Manager | None = None

    @property
    def store_path(self) -> Path:
        return self.directory / "state" / "fleet.db"

    @property
    def service(self) -> FleetService:
        assert self.manager is not None
        return FleetService(self.manager)

    def start_broker(self) -> BrokerProcess:
        return BrokerProcess.start(self.kind, self.port, self.directory / "broker")

    def open_store(self) -> Store:
        return open_store(self.store_path, fleet=FLEET)

    def start_manager(self, **settings: Any) -> Manager:
        self.manager = Manager(
            fleet=FLEET,
            store=self.open_store(),
            repository=self.repository,
            address=BrokerAddress("127.0.0.1", self.port),
            clock=self.clock,
            delta_dir=self.directory / "deltas",
            **settings,
        )
        self.manager.start()
        wait_until(lambda: self.manager and self.manager.connected, what="for the manager")
        return self.manager

    def stop_manager(self) -> None:
        if self.manager is not None:
            self.manager.stop()
            self.manager.store.close()
            assert self.manager.failure is None
            self.manager = None

    def publish(self, version: str, *, weights: bytes = b"", line: str = "digits") -> str:
        path = make_bundle(self.directory, version, weights=weights, line=line)
        return self.repository.publish(path).digest

    def device(self, name: str, *, line: str = "digits") -> SimulatedDevice:
        device = SimulatedDevice(name, self.port, self.director, line=line)
        self.devices.append(device)
        return device.connect()

    def enrolled(self, *names: str) -> list[SimulatedDevice]:
        devices = [self.device(name) for name in names]
        for device in devices:
            wait_until(lambda d=device: d.enrolled, what="for the enrolment")  # type: ignore[misc]
        wait_until(
            lambda: sum(view.state == "online" for view in self.service.devices()) >= len(names),
            what="for the devices' state",
        )
        return devices

    def published(self, version: str) -> None:
        """Wait until the manager has noticed a version."""
        assert self.manager is not None
        edition = self.manager.catalogue
        wait_until(lambda: any(p.version == version for p in edition.edition.published))

    def close(self) -> None:
        for device in self.devices:
            device._client.disconnect()
            device._client.loop_stop()
        self.stop_manager()
        self.broker.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[Callable[[str], FleetUnderTest]]:
    """Make a fleet on a broker of the kind; no manager yet."""
    made: list[FleetUnderTest] = []

    def make(kind: str = "mosquitto") -> FleetUnderTest:
        made.append(FleetUnderTest(tmp_path, kind))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture
def fleet(make_fleet: Callable[[str], FleetUnderTest]) -> FleetUnderTest:
    """A fleet on mosquitto with its manager running."""
    made = make_fleet("mosquitto")
    made.start_manager()
    return made
