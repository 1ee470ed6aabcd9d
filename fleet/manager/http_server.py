"""Serves the API and the console on the loopback, on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from edge_contract.errors import ExitCode
from fleet.errors import FleetError

HOST = "127.0.0.1"
_STOP_S = 2
"""Open event streams end after that long."""


def bind(port: int) -> socket.socket:
    """A socket on the loopback; port 0 takes a free one.

    Raises:
        FleetError: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise FleetError(
            f"console: port {port} on {HOST} cannot be used: {error.strerror}",
            hint="choose another one with --console-port (0 takes a free one)",
            exit_code=ExitCode.NETWORK,
        ) from error
    return listener


class HttpServer:
    """uvicorn around one app.

    Args:
        app: an ASGI app.
        listener: a bound socket; closed by ``stop``.
        protocol: of one connection; None for uvicorn's own.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        protocol: type[asyncio.Protocol] | None = None,
    ) -> None:
        self._listener = listener
        self.port = int(listener.getsockname()[1])
        config = uvicorn.Config(
            app,
            http=protocol or "auto",
            log_level=logging.WARNING,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_STOP_S,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="http", daemon=True
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Begin to serve. The socket listens at once, so no caller finds it closed."""
        self._listener.listen(128)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is being answered, then end."""
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()
