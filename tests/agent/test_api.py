"""The local API notices a client that has left, and hears out one that only listens."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.api import LOOK_S, SOCKET_NAME, LocalApi, Request


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[tuple[socket.socket, Request]]:
    """A client whose request nothing has been said to yet."""
    requests: queue.Queue[Request] = queue.Queue()
    api = LocalApi(tmp_path, requests.put)
    api.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / SOCKET_NAME))
        client.sendall(b'{"do":"install"}\n')
        yield client, requests.get(timeout=10)
    api.stop()


def test_a_client_that_was_stopped_by_hand_turns_nobody_away(
    asked: tuple[socket.socket, Request],
) -> None:
    client, request = asked
    client.close()
    until_s = time.monotonic() + 5 * LOOK_S
    while not request.given_up and time.monotonic() < until_s:
        time.sleep(0.05)
    assert request.given_up, "although nothing was said that could not be delivered"


def test_a_client_that_has_ended_its_own_sending_still_gets_its_answer(
    asked: tuple[socket.socket, Request],
) -> None:
    client, request = asked
    client.shutdown(socket.SHUT_WR)
    time.sleep(1.5 * LOOK_S)
    assert not request.given_up
    request.finish(phase="committed")
    assert client.makefile().readline() == '{"done":true,"phase":"committed"}\n'
