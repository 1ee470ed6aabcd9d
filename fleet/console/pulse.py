"""One thread that waits for the service's changes on behalf of every open stream.

A thread a stream would let a few dozen open tabs use up the pool that answers pages.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fleet.errors import FleetError
from fleet.service import FleetService

_WAIT_S = 1.0
"""How long the thread outlives the last stream, at most."""


class Pulse:
    """Wakes streams when something has changed. The thread runs while there are any.

    Attributes:
        ended: the service is stopping, and so must every stream.
    """

    def __init__(self, service: FleetService) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._streams: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._thread: threading.Thread | None = None
        self._pause = threading.Event()
        self.ended = False

    @contextmanager
    def subscribe(self) -> Iterator[asyncio.Event]:
        """An event that is set at every change; the stream clears it. Call it on the loop."""
        changed = asyncio.Event()
        with self._lock:
            self._streams[changed] = asyncio.get_running_loop()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="console", daemon=True)
                self._thread.start()
        try:
            yield changed
        finally:
            with self._lock:
                self._streams.pop(changed, None)

    def _run(self) -> None:
        cursor = ""
        while True:
            with self._lock:
                if not self._streams:
                    self._thread = None
                    return
            asked_s = time.monotonic()
            try:
                answer = self._service.events(cursor, wait_s=_WAIT_S)
            except FleetError:
                self._pause.wait(_WAIT_S)
                continue
            # Only a service that is stopping has nothing to say and does not wait to say it.
            at_once = time.monotonic() - asked_s < _WAIT_S / 2
            self.ended = bool(cursor) and at_once and not (answer.changes or answer.reset)
            cursor = answer.cursor
            if answer.changes or answer.reset or self.ended:
                self._wake()
            if self.ended:
                self._pause.wait(_WAIT_S)

    def _wake(self) -> None:
        with self._lock:
            streams = list(self._streams.items())
        for changed, loop in streams:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)
