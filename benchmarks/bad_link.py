"""A slow, lossy, long link between two network namespaces of this machine. Needs root.

The rate is a token bucket and the loss an iptables rule, both the kernel's own; the delay, for
which there may be no netem, is a TUN device at each end with this program between them.

    with BadLink(rate_kbit_s=256, loss=0.03, delay_ms=100) as link:
        subprocess.run([*link.near("…")])       # in one namespace
        subprocess.run([*link.far("…")])        # in the other; link.address is near's
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import heapq
import os
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_CLONE_NEWNET = 0x40000000
_DEVICE = "link0"
_MTU = 1400


class BadLink:
    """Two namespaces and what joins them, for as long as the ``with`` block lasts.

    Args:
        rate_kbit_s: each way.
        loss: share of packets that vanish, each way.
        delay_ms: one way.
    """

    def __init__(self, *, rate_kbit_s: float, loss: float, delay_ms: float) -> None:
        self._rate_kbit_s = rate_kbit_s
        self._loss = loss
        self._delay_ms = delay_ms
        tag = f"{os.getpid():x}"
        self._names = (f"wn{tag}", f"wf{tag}")
        self.address = "10.77.0.1"
        self._shim: subprocess.Popen[str] | None = None

    def near(self, *command: str) -> list[str]:
        """A command line that runs where ``address`` is."""
        return ["ip", "netns", "exec", self._names[0], *command]

    def far(self, *command: str) -> list[str]:
        """A command line that runs at the other end."""
        return ["ip", "netns", "exec", self._names[1], *command]

    def __enter__(self) -> BadLink:
        try:
            for name in self._names:
                _run("ip", "netns", "add", name)
            self._shim = subprocess.Popen(
                [sys.executable, __file__, *self._names, str(self._delay_ms / 1e3)],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._shim.stdout is not None
            if self._shim.stdout.readline().strip() != "up":
                raise OSError("the shim between the namespaces did not start")
            for wrap in (self.near, self.far):
                rate = ("rate", f"{self._rate_kbit_s}kbit", "burst", "4kb", "latency", "1000ms")
                _run(*wrap("tc", "qdisc", "add", "dev", _DEVICE, "root", "tbf", *rate))
                drop = ("--probability", str(self._loss), "-j", "DROP")
                match = ("-i", _DEVICE, "-m", "statistic", "--mode", "random", *drop)
                _run(*wrap("iptables", "-A", "INPUT", *match))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._shim is not None:
            self._shim.send_signal(signal.SIGTERM)
            self._shim.wait()
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def _open_tun(namespace: str, own: str, peer: str) -> int:
    """A TUN device inside a namespace, as a file of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if libc.setns(there, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", _DEVICE.encode(), _IFF_TUN_NO_PI))
        _run("ip", "addr", "add", own, "peer", peer, "dev", _DEVICE)
        _run("ip", "link", "set", _DEVICE, "mtu", str(_MTU), "txqueuelen", "100", "up")
        _run("ip", "link", "set", "lo", "up")
    finally:
        libc.setns(here, _CLONE_NEWNET)
    return tun


def _carry(left: int, right: int, delay_s: float) -> None:
    """Pass packets on, each after the delay, until a signal ends the process."""
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        now_s = time.monotonic()
        timeout_s = max(0.0, waiting[0][0] - now_s) if waiting else 1.0
        for source in select.select([left, right], [], [], timeout_s)[0]:
            while True:
                try:
                    packet = os.read(source, 2000)
                except BlockingIOError:
                    break
                count += 1
                to = right if source == left else left
                heapq.heappush(waiting, (time.monotonic() + delay_s, count, to, packet))
        now_s = time.monotonic()
        while waiting and waiting[0][0] <= now_s:
            _, _, to, packet = heapq.heappop(waiting)
            os.write(to, packet)


def main() -> None:
    """The shim: ``NEAR FAR DELAY_S``."""
    parser = argparse.ArgumentParser(description="Joins two network namespaces.")
    parser.add_argument("near")
    parser.add_argument("far")
    parser.add_argument("delay_s", type=float)
    given = parser.parse_args()
    if not Path("/dev/net/tun").exists():
        raise SystemExit("there is no /dev/net/tun")
    left = _open_tun(given.near, "10.77.0.1", "10.77.0.2")
    right = _open_tun(given.far, "10.77.0.2", "10.77.0.1")
    print("up", flush=True)
    _carry(left, right, given.delay_s)


if __name__ == "__main__":
    main()
