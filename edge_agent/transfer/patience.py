"""How long a device waits for a web server: as long as it sends at a least rate.

A timeout between two bytes is no limit: a server that dribbles would hold an order to its deadline.
Nor is a rate: one that never ends would as well.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge_agent.errors import AgentError

if TYPE_CHECKING:
    import http.client  # at run time where blobs do come over HTTP only

RATE_MIN_BYTES_S = 2048.0
"""16 kbit/s, less than any link brings that is worth an HTTP request; then MQTT takes over."""

HEADERS_MAX_BYTES = 64 * 1024
"""Of one answer, all that is not the blob; a reader's buffer runs ahead of it by 8 KB at most."""


class Patience:
    """A purse of seconds. Waiting spends it, every byte puts back what it may take at most.

    One for all answers of a server, so that many small ones may not each begin anew.

    Args:
        full_s: seconds of silence that are borne, from a full purse.
        monotonic_s: seconds that never go back.
    """

    def __init__(self, full_s: float, monotonic_s: Callable[[], float]) -> None:
        self._full_s = full_s
        self._monotonic_s = monotonic_s
        self._left_s = full_s
        self._left_bytes = HEADERS_MAX_BYTES
        self.read_bytes = 0
        """In all, since the start."""

    def renew(self) -> None:
        """Fill the purse: another connection, after a rest."""
        self._left_s = self._full_s

    def expect(self, body_bytes: int) -> None:
        """A question is asked whose answer has at most so many bytes, and headers."""
        self._left_bytes = body_bytes + HEADERS_MAX_BYTES

    def wait(self, sock: socket.socket, read: Callable[[], int | None]) -> int | None:
        """Read something; returns how many bytes.

        Raises:
            AgentError: the server is too slow, or sends more than it was asked for.
        """
        began_s = self._monotonic_s()
        try:
            if self._left_s <= 0:
                raise TimeoutError
            sock.settimeout(self._left_s)
            size_bytes = read()
        except TimeoutError:
            raise AgentError(
                f"it sends less than {RATE_MIN_BYTES_S:.0f} bytes/s for {self._full_s:g} s"
            ) from None
        spent_s = self._monotonic_s() - began_s - (size_bytes or 0) / RATE_MIN_BYTES_S
        self._left_s = min(self._full_s, self._left_s - spent_s)
        self.read_bytes += size_bytes or 0
        self._left_bytes -= size_bytes or 0
        if self._left_bytes < 0:
            # Answers before the answer (status 100) may come without end, at any rate.
            raise AgentError("it sends more than it was asked for")
        return size_bytes


class _PatientReader(io.RawIOBase):
    """What comes over a socket, headers as well."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, patience: Patience) -> None:
        self._raw = raw
        self._sock = sock
        self._patience = patience

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._patience.wait(self._sock, lambda: self._raw.readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


def patient_response(patience: Patience) -> type[http.client.HTTPResponse]:
    """The class of a connection's answers that are read with patience and no longer."""

    import http.client

    class PatientResponse(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *rest: Any, **more: Any) -> None:
            super().__init__(sock, *rest, **more)
            self.fp = io.BufferedReader(_PatientReader(self.fp.detach(), sock, patience))

    return PatientResponse
