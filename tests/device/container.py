"""A booted machine with real systemd, in a container: x86-64, or arm64 under qemu-user.

Needs root, systemd-nspawn and overlayfs; arm64 needs binfmt_misc as well. Userland and wheels come
from the same cache as the emulated boards (``board.py``).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest

from device_configs.loader import load_profile
from tests.device.board import ROOT, leave_out, site_packages, userland, write_cpu_files

Arch = Literal["amd64", "arm64"]
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_MAGIC = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:"
    "{qemu}:OCF"
)
"""How Linux knows a 64-bit ARM program (Documentation/admin-guide/binfmt-misc)."""
EXPOSURE_MAX = 3.0
"""Of a unit, as ``systemd-analyze security`` counts it."""

_IN_CGROUP = """for group in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ -f "$group/cgroup.procs" ] && mkdir -p "$group/$0" && echo $$ > "$group/$0/cgroup.procs"
done
exec "$@"
"""
"""A control group of its own: in one, two containers take each other's services for theirs."""

_SITE = "/opt/wherry/site"
_SOURCE = "/opt/wherry/source"
_LAUNCHER = f"""#!/usr/bin/python3.11
import sys
sys.path[:0] = ["{_SOURCE}", "{_SITE}"]
from edge_agent.cli import main
sys.exit(main())
"""


class Container:
    """One booted container; what is written in it is gone when it is closed.

    Args:
        arch: of its programs.
        folder: scratch space of the test.
    """

    def __init__(self, arch: Arch, folder: Path) -> None:
        for program in ("systemd-nspawn", "mmdebstrap"):
            if shutil.which(program) is None:
                leave_out(f"a container with systemd needs {program}")
        if os.geteuid() != 0:
            leave_out("a container with systemd needs root")
        if arch == "arm64":
            _register_arm64()
        root = userland(arch, with_systemd=True)
        _complete(root)
        self._arch = arch
        self.name = f"wherry-{arch}-{os.getpid()}"
        self._log = (folder / "boot.log").open("w")
        self._process = subprocess.Popen(
            [
                "sh", "-c", _IN_CGROUP, self.name,
                "systemd-nspawn", "--boot", "--quiet", f"--directory={root}",
                f"--machine={self.name}", "--register=no", "--keep-unit", "--private-network",
                "--volatile=overlay", "--console=pipe",
                f"--bind-ro={site_packages(arch)}:{_SITE}", f"--bind-ro={ROOT}:{_SOURCE}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )  # fmt: skip
        self._between_s, self._leader = 0.1, ""
        self._leader = self._wait("its first process", self._find_leader)
        # Each question runs a program inside, which under emulation takes from the boot itself.
        self._between_s, self._patience = (1.0, 3) if arch == "arm64" else (0.2, 1)
        self._wait("a running systemd", self._is_up, timeout_s=300)
        self.root = Path(f"/proc/{self._leader}/root")
        if arch == "arm64":
            self._pretend_to_be_a_pi(folder)
        self.write("usr/local/bin/edge-agent", _LAUNCHER, mode=0o755)

    def run(self, *words: str, check: bool = True, timeout_s: float = 180) -> str:
        """Run a command inside as root; returns stdout."""
        done = subprocess.run(
            ["nsenter", "-t", self._leader, "-m", "-u", "-i", "-n", "-p", "-C", *words],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"},
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr[-2000:]}"
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file inside."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def copy(self, source: Path, path: str) -> None:
        """A directory of the host, inside, readable by all."""
        shutil.copytree(source, self.root / path)
        self.run("chmod", "-R", "a+rX", f"/{path}")

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        words = [f"--property={name}" for name in names]
        lines = self.run("systemctl", "show", unit, *words).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def wait(self, unit: str, ready: Callable[[dict[str, str]], bool], timeout_s: float) -> None:
        """Until a unit's properties are as wanted; fails with its journal.

        Args:
            timeout_s: of a machine that is not emulated; three times as long on one that is.
        """
        names = ("ActiveState", "SubState", "NRestarts", "Result", "StatusText", "MainPID")
        until = time.monotonic() + timeout_s * self._patience
        found: dict[str, str] = {}
        while time.monotonic() < until:
            found = self.show(unit, *names)
            if ready(found):
                return
            time.sleep(self._between_s)
        pytest.fail(f"in vain, {unit} is {found}:\n{self.journal(unit)[-4000:]}")

    def exposure(self, unit: str) -> float:
        """What ``systemd-analyze security`` counts, 0 (tight) to 10; prints its line."""
        last = self.run("systemd-analyze", "security", "--no-pager", unit).strip().splitlines()[-1]
        print(f"{self._arch}: {last}")
        found = re.search(rf"exposure level for {unit}.service: ([0-9.]+)", last)
        assert found, last
        return float(found[1])

    def journal(self, unit: str) -> str:
        """What a unit and systemd about it have logged."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit, check=False)

    def close(self) -> None:
        """End it; a container that does not obey is killed."""
        with suppress(AssertionError, subprocess.TimeoutExpired):
            self.run("systemctl", "poweroff", "--force", "--force", check=False, timeout_s=20)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._kill()
        self._log.close()
        for group in Path("/sys/fs/cgroup").glob(f"**/{self.name}"):
            for part in (*sorted(group.glob("**/"), reverse=True), group):
                with suppress(OSError):
                    part.rmdir()

    def _kill(self) -> None:
        """With all that is inside: it outlives systemd-nspawn, and ends with its first process."""
        if self._leader:
            with suppress(ProcessLookupError):
                os.kill(int(self._leader), signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _find_leader(self) -> str:
        """The child that is process 1 of its own; systemd-nspawn has helpers before it."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with suppress(OSError):
            for child in children.read_text().split():
                status = Path(f"/proc/{child}/status").read_text()
                if re.search(r"^NSpid:.*\t1$", status, re.MULTILINE):
                    return child
        return ""

    def _is_up(self) -> str:
        state = self.run("systemctl", "is-system-running", check=False).strip()
        return state if state in ("running", "degraded") else ""

    def _wait(self, what: str, ready: Callable[[], str], timeout_s: float = 20) -> str:
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            if found := ready():
                return found
            time.sleep(self._between_s)
        self._kill()
        pytest.fail(f"the container did not come to {what}: {Path(self._log.name).read_text()}")

    def _pretend_to_be_a_pi(self, folder: Path) -> None:
        """onnxruntime reads the host's CPU files and crashes: show it a board's."""
        fake = folder / "board"
        write_cpu_files(fake, load_profile("raspberry-pi-4"))
        for name in ("sys/devices/system/cpu", "proc/cpuinfo"):
            inside = f"run/board/{name}"
            if (fake / name).is_dir():
                self.copy(fake / name, inside)
            else:
                self.write(inside, (fake / name).read_text())
            self.run("mount", "--bind", f"/{inside}", f"/{name}")


def _complete(root: Path) -> None:
    """What the packages' scripts would have made, had they been run."""
    etc = root / "etc"
    for name in ("passwd", "group"):
        if not (etc / name).exists():
            shutil.copy(root / "usr/share/base-passwd" / f"{name}.master", etc / name)
    for name in ("shadow", "gshadow", "machine-id"):
        (etc / name).touch()
    for name, target in (("sh", "dash"), ("python3", "python3.11")):
        link = root / "usr/bin" / name
        if not link.is_symlink() and not link.exists():
            link.symlink_to(target)
    for name in ("proc", "sys", "dev", "run", "tmp", "root"):
        (root / name).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory():
        subprocess.run(["systemd-sysusers", f"--root={root}"], check=True, capture_output=True)
    units = root / "etc/systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    for name in ("apt-daily.timer", "apt-daily-upgrade.timer", "systemd-resolved.service"):
        if not (units / name).is_symlink():
            (units / name).symlink_to("/dev/null")


def _register_arm64() -> None:
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None:
        leave_out("an arm64 container needs qemu-aarch64-static: apt-get install qemu-user-static")
    if not (_BINFMT / "register").exists():
        subprocess.run(
            ["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)],
            check=False,
            capture_output=True,
        )
    if not (_BINFMT / "register").exists():
        leave_out("an arm64 container needs binfmt_misc in the kernel")
    if not (_BINFMT / "qemu-aarch64").exists():
        (_BINFMT / "register").write_text(_MAGIC.format(qemu=qemu))
