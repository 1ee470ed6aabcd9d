"""What a service tells systemd: ready, alive, stopping (sd_notify(3)); nothing without systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

_PINGS = 4
"""Signs of life within one watchdog interval, where there is life."""


class Systemd:
    """Datagrams to the socket that systemd named in the environment.

    A message that cannot be sent is dropped: no service may fail because its supervisor is busy.

    Args:
        environment: with ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``, or without.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environment.get("WATCHDOG_USEC", "0")
        self.watchdog_s = int(usec) / 1e6 if mine and usec.isdecimal() else 0.0
        """Seconds without ``alive`` after which systemd ends the service; 0 for never."""

    def ready(self, status: str) -> None:
        """The service does its work from now on."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={' '.join(text.split())}")

    def stopping(self) -> None:
        """The service ends in order."""
        self._send("STOPPING=1")

    def extend_start(self, seconds: float) -> None:
        """Loading takes longer: systemd waits that much more for ``ready``."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(message.encode(), self._address)
        except OSError:
            return


class ProgressWatchdog:
    """Feeds the watchdog only when the work moved.

    A timer would go on feeding it while the camera's driver or a model hangs, and hide just what
    the watchdog is for.

    Args:
        systemd: whom to tell.
        progress: counters of everything that must move; all of them must have.
    """

    def __init__(self, systemd: Systemd, progress: Callable[[], tuple[int, ...]]) -> None:
        self._systemd = systemd
        self._progress = progress
        self._seen: tuple[int, ...] = ()
        self._fed_s = float("-inf")
        self._moved_s: float | None = None

    def tick(self, now_s: float) -> float:
        """Look at the counters, and feed if they moved; call it several times a second.

        Args:
            now_s: monotonic seconds.

        Returns:
            Seconds for which something has stood still.
        """
        found = self._progress()
        moved = len(found) != len(self._seen) or all(
            now != before for now, before in zip(found, self._seen, strict=True)
        )
        if moved or self._moved_s is None:
            self._seen, self._moved_s = found, now_s
            if (
                self._systemd.watchdog_s
                and now_s - self._fed_s >= self._systemd.watchdog_s / _PINGS
            ):
                self._systemd.alive()
                self._fed_s = now_s
        return now_s - self._moved_s
