"""What systemd hears: ready, alive only while the work moves, nothing without systemd."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_configs.service.notify import ProgressWatchdog, Systemd


class Listener:
    """The socket on which systemd would listen."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path / "notify")
    yield listener
    listener.close()


def systemd(listener: Listener, **more: str) -> Systemd:
    return Systemd({"NOTIFY_SOCKET": listener.address, **more})


def test_ready_carries_the_state_and_a_status_stays_one_line(listener: Listener) -> None:
    service = systemd(listener)
    service.ready("runs digits 1.0.0")
    service.status("two\nlines")
    service.stopping()
    assert listener.heard() == [
        "READY=1\nSTATUS=runs digits 1.0.0",
        "STATUS=two lines",
        "STOPPING=1",
    ]


def test_without_systemd_nothing_is_sent_and_nothing_fails() -> None:
    service = Systemd({})
    service.ready("x")
    assert service.watchdog_s == 0.0
    assert ProgressWatchdog(service, lambda: (1,)).tick(0.0) == 0.0


def test_a_supervisor_that_is_gone_does_not_stop_the_service(tmp_path: Path) -> None:
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("x")


def test_another_process_s_watchdog_is_not_fed(listener: Listener) -> None:
    assert systemd(listener, WATCHDOG_USEC="60000000", WATCHDOG_PID="1").watchdog_s == 0.0
    assert systemd(listener, WATCHDOG_USEC="60000000").watchdog_s == 60.0


def test_the_watchdog_is_fed_while_all_move_and_not_oftener_than_needed(
    listener: Listener,
) -> None:
    turns = [0, 0]
    watchdog = ProgressWatchdog(
        systemd(listener, WATCHDOG_USEC="40000000"), lambda: (turns[0], turns[1])
    )
    for second in range(40):
        turns[0] += 1
        turns[1] += 1
        assert watchdog.tick(float(second)) == 0.0
    assert listener.heard() == ["WATCHDOG=1"] * 4


def test_one_thread_that_hangs_starves_the_watchdog(listener: Listener) -> None:
    turns = [0, 0]
    watchdog = ProgressWatchdog(
        systemd(listener, WATCHDOG_USEC="4000000"), lambda: (turns[0], turns[1])
    )
    for second in range(10):
        turns[0] += 1
        turns[1] += 1
        watchdog.tick(float(second))
    assert listener.heard()
    for second in range(10, 20):
        turns[0] += 1  # the camera still gives frames, the model answers none
        stalled_s = watchdog.tick(float(second))
    assert stalled_s == 10.0
    assert listener.heard() == []
    turns[1] += 1
    assert watchdog.tick(20.0) == 0.0
    assert listener.heard() == ["WATCHDOG=1"]
