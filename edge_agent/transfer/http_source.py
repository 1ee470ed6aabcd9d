"""Blocks over HTTP Range: for fleets whose blobs lie on a web server or a CDN.

``GET {base}/{hex of the digest}`` with ``Range``. Questions and blocks are those of MQTT, so
windows, maps and digests work alike; nothing that a server sends is trusted before its digest is
right. When it fails, or sends too slowly, MQTT takes over for a while.
"""

from __future__ import annotations

import queue
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from edge_agent.errors import AgentError
from edge_agent.transfer.patience import Patience, patient_response
from edge_contract.digest import hex_of
from edge_contract.errors import WherryError
from edge_contract.messages import BlobAsk, BlobBlock

if TYPE_CHECKING:
    import http.client  # at run time where blobs do come over HTTP only: 1.5 MB

TIMEOUT_S = 20.0
REQUEST_BYTES = 300
"""A question with its headers."""
HANDSHAKE_BYTES = 5000
"""Of TLS, with the server's certificates."""
REST_S = 300.0
"""How long MQTT takes over after a failure."""


class HttpBlock(msgspec.Struct, frozen=True):
    """A block came over HTTP. ``wire_bytes``: with all that was sent and read for it."""

    block: BlobBlock
    wire_bytes: int


class HttpFailed(msgspec.Struct, frozen=True):
    """The server did not answer as it should. ``wire_bytes``: what it cost all the same."""

    reason: str
    wire_bytes: int = 0


class HttpSource:
    """Fetches what is asked for on a thread of its own.

    Args:
        base: ``https://host/path`` or ``http://…``; blobs lie below it by the hex of their digest.
        post: receives ``HttpBlock`` and ``HttpFailed``, from the thread.
        monotonic_s: for the rest after a failure, and for the server's rate.
        timeout_s: how long to wait for a server that sends too little (``patience``).

    Raises:
        AgentError: not such a URL.
    """

    def __init__(
        self,
        base: str,
        post: Callable[[HttpBlock | HttpFailed], None],
        monotonic_s: Callable[[], float],
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise AgentError(f"transfer.http: expected https://host/path, got {base!r}")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/")
        self._post = post
        self._monotonic_s = monotonic_s
        self._rest_until_s = 0.0
        self._questions: queue.Queue[BlobAsk | None] = queue.Queue()
        self._sizes: dict[str, int] = {}
        self._connection: http.client.HTTPConnection | None = None
        self._timeout_s = timeout_s
        self._patience = Patience(timeout_s, monotonic_s)
        self._wire_bytes = 0
        self._counted_bytes = 0
        self._thread = threading.Thread(target=self._run, name="http-blobs", daemon=True)
        self._thread.start()

    @property
    def usable(self) -> bool:
        """Whether it has not failed lately."""
        return self._monotonic_s() >= self._rest_until_s

    def ask(self, ask: BlobAsk) -> bool:
        """Queue a question; one that is not for more replaces those that wait."""
        if not ask.more:
            self._drain(ask.digest)
        self._questions.put(ask)
        return True

    def failed(self) -> None:
        """Rest for a while; what is queued is asked for elsewhere."""
        self._rest_until_s = self._monotonic_s() + REST_S
        self._drain("")

    def stop(self) -> None:
        """End the thread."""
        self._drain("")
        self._questions.put(None)

    def _drain(self, digest: str) -> None:
        """Drop what waits about a digest ("" for all)."""
        kept = []
        while True:
            try:
                item = self._questions.get_nowait()
            except queue.Empty:
                break
            if item is None or (digest and item.digest != digest):
                kept.append(item)
        for item in kept:
            self._questions.put(item)

    def _run(self) -> None:
        import http.client

        while (ask := self._questions.get()) is not None:
            try:
                for first, last in ask.missing:
                    self._fetch(ask, first * ask.block_bytes, (last + 1) * ask.block_bytes)
            except (OSError, ValueError, http.client.HTTPException, WherryError) as error:
                # ValueError: a header that is no number, a host name that is none.
                self._close()
                reason = f"{self._host}: {error or type(error).__name__}"
                self._post(HttpFailed(reason, self._take_wire_bytes()))
        self._close()

    def _fetch(self, ask: BlobAsk, begin: int, end: int) -> None:
        response = self._request(hex_of(ask.digest), begin, end)
        size_bytes, body_bytes = _extent(response, begin, end)
        at = begin
        while at < begin + body_bytes or (at == begin and not size_bytes):
            wanted = min(ask.block_bytes, begin + body_bytes - at)
            data = response.read(wanted)
            if len(data) != wanted:
                raise AgentError(f"the answer ended {wanted - len(data)} bytes early")
            block = BlobBlock(digest=ask.digest, offset_bytes=at, size_bytes=size_bytes, data=data)
            self._post(HttpBlock(block, self._take_wire_bytes()))
            at += max(wanted, 1)
        response.read(1)

    def _request(self, name: str, begin: int, end: int) -> http.client.HTTPResponse:
        import http.client

        self._wire_bytes += REQUEST_BYTES
        if self._connection is None:
            self._wire_bytes += HANDSHAKE_BYTES if self._secure else 0
            if self._secure:
                context = ssl.create_default_context()
                self._connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=self._timeout_s, context=context
                )
            else:
                self._connection = http.client.HTTPConnection(
                    self._host, self._port, timeout=self._timeout_s
                )
            self._connection.response_class = patient_response(self._patience)
        self._patience.expect(end - begin)
        headers = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        self._connection.request("GET", f"{self._path}/{name}", headers=headers)
        return self._connection.getresponse()

    def _take_wire_bytes(self) -> int:
        """What went over the link since the last call."""
        read_bytes = self._patience.read_bytes
        taken = self._wire_bytes + read_bytes - self._counted_bytes
        self._wire_bytes, self._counted_bytes = 0, read_bytes
        return taken

    def _close(self) -> None:
        self._patience.renew()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _extent(response: http.client.HTTPResponse, begin: int, end: int) -> tuple[int, int]:
    """(size of the blob, bytes in this answer).

    Raises:
        AgentError: not the range that was asked for, or not as it is.
    """
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise AgentError(f"expected the bytes as they are, got them as {coding[:40]!r}")
    length = int(response.headers.get("Content-Length") or -1)
    if response.status == 200 and begin == 0 and 0 <= length <= end:
        return length, length
    where = response.headers.get("Content-Range", "")
    unit, _, rest = where.partition(" ")
    span, _, total = rest.partition("/")
    first, _, last = span.partition("-")
    numbers = (first, last, total)
    if response.status != 206 or unit != "bytes" or not all(n.isdecimal() for n in numbers):
        raise AgentError(f"expected status 206 with a range, got {response.status} {where!r}")
    size_bytes, body_bytes = int(total), int(last) + 1 - int(first)
    if int(first) != begin or body_bytes != min(end, size_bytes) - begin or length != body_bytes:
        raise AgentError(f"expected bytes {begin} to {end - 1}, got {where!r} ({length} bytes)")
    return size_bytes, body_bytes
