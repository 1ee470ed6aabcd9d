"""Blobs by digest over HTTP with Range: ``GET /{hex of the digest}``, for devices and for CDNs.

No login: a blob is found only by the SHA-256 that stands in an order, and its bytes prove
themselves. Where models are secret, put a proxy that asks for certificates before it.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_contract.errors import ExitCode, WherryError
from fleet.clock import Clock
from fleet.errors import FleetError
from fleet.transfer.total_rate import TotalRate

_HEX = re.compile(r"[0-9a-f]{64}")


class PacedApp:
    """An app whose answers all together keep to a rate.

    Args:
        app: answers.
        rate: what may be sent; others may take from it, too.
        clock: monotonic.
    """

    def __init__(self, app: ASGIApp, rate: TotalRate, clock: Clock) -> None:
        self._app = app
        self._rate = rate
        self._clock = clock
        self._turn = asyncio.Lock()
        """First come, first served: of HTTP as a whole one block waits at a time, as of MQTT."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Who leaves is not paid for: starlette ends with the connection."""

        async def paced(message: Message) -> None:
            if size_bytes := len(message.get("body", b"")):
                async with self._turn:
                    wait_s = self._rate.take(size_bytes, self._clock.monotonic_s())
                    if wait_s:
                        await asyncio.sleep(wait_s)
            await send(message)

        await self._app(scope, receive, paced)


def build_blob_app(path_of: Callable[[str], Path], rate: TotalRate, clock: Clock) -> PacedApp:
    """The whole app.

    Args:
        path_of: the file of a blob or delta by digest; raises ``WherryError`` where there is none.
        rate: what all devices may pull together.
        clock: monotonic.
    """

    async def blob(request: Request) -> Response:
        name = str(request.path_params["name"])
        try:
            if not _HEX.fullmatch(name):
                raise FleetError("not the hex of a SHA-256")
            path = await run_in_threadpool(path_of, f"sha256:{name}")
        except WherryError:
            return PlainTextResponse("no such blob\n", 404)
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return FileResponse(path, headers=headers, media_type="application/octet-stream")

    app = Starlette(routes=[Route("/{name}", blob, methods=["GET"])])
    return PacedApp(app, rate, clock)


def bind_blobs(address: str) -> socket.socket:
    """A socket at ``HOST:PORT``.

    Raises:
        FleetError: not such an address, or it cannot be used.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise FleetError(
            f"--blob-http: expected HOST:PORT, got {address!r}", exit_code=ExitCode.USAGE
        )
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
    except OSError as error:
        listener.close()
        raise FleetError(f"--blob-http {address}: {error}", exit_code=ExitCode.NETWORK) from error
    return listener
