"""Start, stop, freeze and kill the demo's processes; each one's output goes to a file."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


class DemoError(Exception):
    """Something did not go as the story says."""


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cast:
    """Every process of the demo, by name.

    Args:
        log_dir: where their output goes.
    """

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        log_dir.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str | Path]) -> int:
        """Start a process; returns its pid. A name can be started again after it was killed."""
        log = (self.log_dir / f"{name}.log").open("ab")
        with log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._running[name] = process
        return process.pid

    def pid(self, name: str) -> int:
        """The process id."""
        return self._running[name].pid

    def kill(self, name: str) -> None:
        """SIGKILL: no farewell."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def freeze(self, name: str) -> None:
        """SIGSTOP: it stands still, with its sockets open."""
        os.kill(self.pid(name), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        os.kill(self.pid(name), signal.SIGCONT)

    def stop(self, name: str, timeout_s: float = 20.0) -> int:
        """SIGTERM, and wait; returns the exit code."""
        process = self._running.pop(name)
        process.terminate()
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise DemoError(f"{name} did not end within {timeout_s:.0f} s of SIGTERM") from None

    def check(self) -> None:
        """Everybody who was started and not stopped is still alive.

        Raises:
            DemoError: one ended by itself; shows the end of its log.
        """
        for name, process in self._running.items():
            if process.poll() is not None:
                raise DemoError(
                    f"{name} ended with exit code {process.returncode}:\n{self.tail(name)}"
                )

    def tail(self, name: str, lines: int = 15) -> str:
        """The end of a process's output."""
        text = (self.log_dir / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def end(self) -> None:
        """Stop everybody that is left, whatever it takes."""
        for process in self._running.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        self._running.clear()


def tool(command: list[str | Path], *, accept: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run one command with ``--json`` and return what it printed, with ``exit_code`` added.

    Raises:
        DemoError: it ended with another exit code than those accepted.
    """
    words = [str(part) for part in command]
    result = subprocess.run(
        [str(BIN / words[0]), *words[1:], "--json"], capture_output=True, text=True, check=False
    )
    if result.returncode not in accept:
        raise DemoError(
            f"`{' '.join(words)}` ended with exit code {result.returncode}:\n"
            f"{result.stdout[-1500:]}{result.stderr[-1500:]}"
        )
    printed = json.loads(result.stdout) if result.stdout.strip() else {}
    body = printed if isinstance(printed, dict) else {"items": printed}
    return {**body, "exit_code": result.returncode}


def wait_for(
    what: str, ready: Callable[[], Any], *, timeout_s: float, alive: Callable[[], None]
) -> Any:
    """Ask ``ready`` until it answers with something true, and return that.

    Raises:
        DemoError: the time is over, or ``alive`` says that a process ended.
    """
    until = time.monotonic() + timeout_s
    while True:
        answer = ready()
        if answer:
            return answer
        alive()
        if time.monotonic() > until:
            raise DemoError(f"waited {timeout_s:.0f} s in vain for: {what}")
        time.sleep(0.2)
