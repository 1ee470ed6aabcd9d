"""HTTP/1.1 for strangers: so many connections and no more, and none that only sits there.

The blobs' server needs no login and lives in the manager's process: whoever opened connections
without end would leave no file handle for the store and the broker.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

CONNECTIONS_MAX = 256
"""Each may take two of a process's 1,024 handles: a socket and a blob."""
REST_S = 20.0
"""Within so long a request is made, and something of an answer is taken (a socket's buffer, so
some kilobytes a second: less than that is no link for HTTP)."""


class GuardedProtocol(H11Protocol):
    """One connection of uvicorn's, watched."""

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        """A stranger has connected."""
        super().connection_made(transport)
        self._seen: tuple[RequestResponseCycle | None, int] | None = None
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
        else:
            self._watch()

    def _watch(self) -> None:
        if self.transport.is_closing():
            return
        waiting_bytes = self.transport.get_write_buffer_size()
        seen = (self.cycle, waiting_bytes)
        idle = self.cycle is None or self.cycle.response_complete
        if seen == self._seen and (idle or waiting_bytes):
            self.transport.abort()
            return
        self._seen = seen
        self.loop.call_later(REST_S, self._watch)
