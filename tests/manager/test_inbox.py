"""The manager's queue: whoever waits for the loop is told when there will be no answer."""

from __future__ import annotations

import time

import pytest

from fleet.errors import FleetError
from fleet.manager.facts import Facts
from fleet.manager.inbox import Command, Inbox


def test_all_who_wait_are_told_when_the_loop_has_ended() -> None:
    inbox = Inbox(Facts(0.0))
    commands = [Command(lambda: None) for _ in range(1200)]
    for command in commands:
        inbox.put(command)
    inbox.refuse_all()
    assert len(inbox) == 0
    for command in commands:
        with pytest.raises(FleetError, match="the manager is stopping"):
            command.done.result(timeout=0)


def test_nobody_waits_for_a_loop_that_has_ended_before() -> None:
    inbox = Inbox(Facts(0.0))
    inbox.refuse_all()
    began_s = time.monotonic()
    with pytest.raises(FleetError, match="the manager is stopping"):
        inbox.do(lambda: None, timeout_s=30.0)
    assert time.monotonic() - began_s < 5.0
