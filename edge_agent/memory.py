"""Keeps the C allocator's memory near what is in use. Elsewhere than on glibc it changes nothing.

glibc gives every thread an arena of its own and keeps freed pages for it. Loading a model passes
several times its size through the allocator on one thread, once; without this the pages stay with
that thread for ever. With a 4 MB model that was 10 MB (``docs/evidence/agent.md`` has the rest).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

_M_ARENA_MAX = -8
"""From glibc's malloc.h."""
ARENAS = 1
"""What allocates most, Python, is serialised by its interpreter lock; one arena can be shared."""


def limit_arenas() -> None:
    """Let all threads allocate from one arena; call it before any is started."""
    mallopt = _from_libc("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Return freed pages to the system; takes milliseconds, so never call it for every frame."""
    malloc_trim = _from_libc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _from_libc(name: str) -> Callable[..., Any] | None:
    found: Callable[..., Any] | None = getattr(ctypes.CDLL(None), name, None)
    return found
