"""A piece of work in a process of its own, which may be killed at one chosen write."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from fleet.errors import FleetError

REFUSED = 3
"""Exit code of a child whose work was refused."""


def start_child(work: Callable[[], object]) -> int:
    """Fork a child that does ``work``; its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except FleetError:
            os._exit(REFUSED)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return pid


def ended(pid: int) -> int:
    """Wait for a child; its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at_fsync(number: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a child that is killed at its ``number``-th fsync, before it happens.

    Returns:
        whether it was killed; False: it came to its end before.
    """
    real, seen = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal seen
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
        real(handle)

    def run() -> None:
        os.fsync = fsync
        work()

    code = ended(start_child(run))
    assert code in (0, -signal.SIGKILL), f"the work failed by itself: {code}"
    return code != 0
