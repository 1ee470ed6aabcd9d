"""Become another program that ends when its parent does.

Run as ``python -I tether.py PARENT_PID PROGRAM ARGUMENT…``. The kernel's parent-death signal
outlives ``exec``, so it works for programs that know nothing of it, a SIGKILL of the parent
included. Where there is no such signal (not Linux) the program simply runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to the parent and become the program; returns only by an exception."""
    parent, program = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("the parent ended before the program could be tied to it")
    os.execv(program[0], program)  # noqa: S606 - the program is the broker that the caller names


if __name__ == "__main__":
    main(sys.argv[1:])
