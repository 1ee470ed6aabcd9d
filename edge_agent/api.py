"""The local API: a Unix socket in the state directory that only the agent's own user can reach.

One JSON line in, JSON lines out, the last of which has ``done``. ``edge-agent status``, ``hold``,
``release`` and ``install`` are its clients; so may be a program of the device's owner.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge_agent.errors import AgentError
from edge_agent.statedir import is_locked
from edge_contract.codec import MESSAGE_LIMIT_BYTES, decode_json, encode_json
from edge_contract.errors import ContractError, ExitCode

SOCKET_NAME = "agent.sock"
_CLIENT_TIMEOUT_S = 10.0
_REPLY_TIMEOUT_S = 660.0
"""Above a self-test's deadline, so that a client hears how an installation ended."""
LOOK_S = 1.0
"""A client that was stopped by hand must not turn the next one away for longer."""


class Request:
    """One call of a local client. The loop answers it from its own thread."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.given_up = False
        """Whether the client has gone, or waited in vain."""
        self._replies: queue.Queue[dict[str, Any]] = queue.Queue()

    def say(self, **reply: Any) -> None:
        """Send a line; more may follow."""
        self._replies.put(reply)

    def finish(self, **reply: Any) -> None:
        """Send the last line."""
        self._replies.put({**reply, "done": True})

    def replies(self, gone: Callable[[], bool] = lambda: False) -> Iterator[dict[str, Any]]:
        """Lines as they come, the last one included.

        Args:
            gone: whether nobody listens any more, asked every ``LOOK_S``: then there are no more.
        """
        waited_s = 0.0
        while not gone():
            try:
                reply = self._replies.get(timeout=LOOK_S)
            except queue.Empty:
                waited_s += LOOK_S
                if waited_s < _REPLY_TIMEOUT_S:
                    continue
                reply = {"error": "the agent did not answer in time", "done": True}
            waited_s = 0.0
            yield reply
            if reply.get("done"):
                return


class LocalApi:
    """Serves the socket on a thread of its own.

    Args:
        state_dir: where the socket lies.
        post: receives every ``Request``.

    Raises:
        AgentError: the path is too long for a Unix socket, or cannot be bound.
    """

    def __init__(self, state_dir: Path, post: Callable[[Request], None]) -> None:
        self._path = state_dir / SOCKET_NAME
        self._post = post
        # The state directory's lock is held, so a socket that is there is a leftover.
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(str(self._path))
        except OSError as error:
            self._socket.close()
            raise AgentError(
                f"cannot listen on {self._path}: {error}",
                hint="set device.state_dir to a shorter path on a local file system",
            ) from error
        os.chmod(self._path, 0o600)  # noqa: PTH101
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._serve, name="api", daemon=True)

    def start(self) -> None:
        """Start serving."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and remove the socket."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(_CLIENT_TIMEOUT_S)
            with client.makefile("rwb") as stream:
                line = stream.readline(MESSAGE_LIMIT_BYTES)
                try:
                    body = decode_json(line, dict, what="local request")
                except ContractError as error:
                    stream.write(encode_json({**error.as_json(), "done": True}) + b"\n")
                    return
                request = Request(body)
                self._post(request)
                try:
                    for reply in request.replies(lambda: _hung_up(client)):
                        stream.write(encode_json(reply) + b"\n")
                        stream.flush()
                finally:
                    request.given_up = True


def _hung_up(client: socket.socket) -> bool:
    """Whether the other side has closed; one that only ended its own sending still listens."""
    asked = select.poll()
    asked.register(client, 0)
    return any(events & select.POLLHUP for _, events in asked.poll(0))


def call(state_dir: Path, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Call the agent that runs on ``state_dir``; yields its lines.

    Raises:
        AgentError: none runs there, or it went away in the middle.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_REPLY_TIMEOUT_S)
        try:
            client.connect(str(state_dir / SOCKET_NAME))
        except PermissionError as error:
            raise AgentError(
                f"not allowed to talk to the agent on {state_dir}",
                hint="run it as the agent's user, e.g. with sudo",
                exit_code=ExitCode.AUTH,
            ) from error
        except OSError as error:
            if is_locked(state_dir):
                raise AgentError(
                    f"an edge-agent runs on {state_dir} and listens to nobody: {error.strerror}",
                    hint="look into its log, and whether the state directory can be written",
                    exit_code=ExitCode.NETWORK,
                ) from error
            raise AgentNotRunningError(
                f"no edge-agent runs on {state_dir}",
                hint="start one: edge-agent run --config FILE; or name its file: --config FILE",
                exit_code=ExitCode.NOT_FOUND,
            ) from error
        try:
            with client.makefile("rwb") as stream:
                stream.write(encode_json(body) + b"\n")
                stream.flush()
                for line in stream:
                    reply = decode_json(line, dict, what="the agent's answer")
                    yield reply
                    if reply.get("done"):
                        return
        except TimeoutError as error:
            raise AgentError(
                f"the agent on {state_dir} did not answer within {_REPLY_TIMEOUT_S:.0f} s",
                hint="look into its log",
                exit_code=ExitCode.NETWORK,
            ) from error
        except OSError as error:
            raise AgentError(f"the agent on {state_dir} went away: {error.strerror}") from error
    raise AgentError(f"the agent on {state_dir} went away before it had answered")


class AgentNotRunningError(AgentError):
    """Nobody listens on the socket."""
