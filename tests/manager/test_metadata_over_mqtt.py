"""Real brokers, a manager with more roots than a message holds, and a real agent on a metered link
that trusts the first of them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tuf.api.metadata import Root

from edge_agent.trust.verifier import TrustStore
from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.metadata import encode_metadata_set
from examples.digits.frames import write_frames
from fleet.repository.archive import Archive
from fleet.repository.ceremony import Ceremony
from tests.agent.conftest import Bench
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import FLEET, wait_until

QUIET = """[telemetry]
window_s = 3600
[drift]
enabled = false
"""


class Line:
    """A wire to the broker that counts what the device hears, and can be cut."""

    def __init__(self, port: int) -> None:
        self.heard_bytes = 0
        self.connections_count = 0
        self._to = port
        self._ends: tuple[socket.socket, ...] = ()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends = (near, far)
                self.connections_count += 1
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.heard_bytes += len(data) if source is self._ends[1] else 0
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def line_to(fleet: FleetUnderTest) -> Iterator[Line]:
    line = Line(fleet.port)
    yield line
    line.close()


@pytest.mark.debian
def test_a_device_with_the_first_root_follows_more_roots_than_a_message_holds_and_only_once(
    make_fleet: Callable[[str], FleetUnderTest], tmp_path: Path
) -> None:
    fleet = make_fleet("mosquitto")
    bench = old_device(fleet, tmp_path / "device", roots=26)
    approval = encode_metadata_set(fleet.repository.metadata_set("digits"))
    assert len(approval) > MESSAGE_LIMIT_BYTES
    follows_once_and_goes_on(fleet, bench, roots=26)


def test_the_embedded_broker_gives_single_roots_as_well(
    make_fleet: Callable[[str], FleetUnderTest], tmp_path: Path
) -> None:
    fleet = make_fleet("embedded")
    follows_once_and_goes_on(fleet, old_device(fleet, tmp_path / "device", roots=4), roots=4)


def old_device(fleet: FleetUnderTest, home: Path, *, roots: int) -> Bench:
    """A device that was given the first root; since then the root has changed."""
    home.mkdir()
    (home / "root.json").write_bytes(fleet.repository.root_bytes())
    write_frames(home / "frames", count=30, seed=1)
    bench = Bench(home, fleet.repository)
    bench.bundle()
    ceremony = Ceremony(fleet.repository, "olga")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda fd: None)  # a hundred waits that nothing here needs
        enlarge_root(fleet.repository.archive)
        for _ in range(roots - 2):
            assert ceremony.renew().committed
    return bench


def enlarge_root(archive: Archive) -> None:
    """To the size of one that five people sign and keys of five others."""
    base = archive.files.read()
    base.root.signed.unrecognized_fields["x-more-keys"] = "." * 4000
    changed = {Root.type: base.root.signed}
    directors = archive.directors_bytes(base)
    assert archive.propose("renew", changed, directors, who="olga", reason="").committed


def follows_once_and_goes_on(fleet: FleetUnderTest, bench: Bench, *, roots: int) -> None:
    """It takes every root, nothing again with the next connection, and then what is new."""
    first_root = (bench.home / "root.json").read_bytes()

    def root_version() -> int:
        return TrustStore(bench.state / "trust", root=first_root).root_version

    fleet.start_manager()
    with line_to(fleet) as line:
        bench.configure(
            f'[mqtt]\nhost = "127.0.0.1"\nport = {line.port}\n[link]\nmetered = true\n',
            fleet=FLEET,
        )
        text = bench.config.read_text()
        begin, end = text.index("[telemetry]"), text.index("[health]")
        bench.config.write_text(text[:begin] + QUIET + text[end:])
        process = bench.start()
        try:
            wait_until(lambda: (bench.state / "trust" / "trusted.json").exists(), 30)
            bench.wait("every root", lambda: root_version() == roots)
            bench.wait("no refusal", lambda: not bench.status()["last_refusal"])
            everything = line.heard_bytes
            assert everything > roots * len(first_root)
            line.cut()
            wait_until(lambda: line.heard_bytes > everything + 300, 10)
            bench.wait("the link", lambda: bench.status()["link"]["up"])
            assert line.connections_count == 2
            assert line.heard_bytes - everything < 2_000
            assert Ceremony(fleet.repository, "olga").renew().committed
            bench.wait("the next root", lambda: root_version() == roots + 1)
        finally:
            bench.stop(process)
