"""Programs of the system that some tests need."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def require_program(name: str) -> str:
    """The path of a program; without it the test is left out, and fails where CI=true."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not path:
        leave_out(f"needs the program {name!r}: apt-get install {name}")
    return path


def leave_out(reason: str) -> NoReturn:
    """Leave a test out where the machine does not allow it; fail where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
