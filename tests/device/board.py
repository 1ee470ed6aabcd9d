"""Emulated 64-bit ARM boards: a Debian userland with Python and onnxruntime, under qemu-user.

Userland and wheels lie in a cache outside the checkout (``WHERRY_DEVICE_CACHE``, by default
``~/.cache/wherry/device``) and are made once. Nothing needs root, binfmt or a kernel module.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from edge_contract.profile import DeviceProfile

ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
PYTHON = "python3.11"
_PACKAGES = (
    "libc6", f"{PYTHON}-minimal", f"lib{PYTHON}-stdlib", "libstdc++6", "zlib1g", "libssl3",
    "libffi8",
)  # fmt: skip
_SYSTEMD = (
    "systemd", "systemd-sysv", "dbus", "util-linux", "mount", "login", "coreutils", "dash", "bash",
    "sed", "grep", "findutils", "base-files", "base-passwd", "libpam-runtime", "dpkg", "tar",
    "libc-bin", "diffutils",
)  # fmt: skip
_WHEELS = (
    "msgspec", "zstandard", "cryptography", "securesystemslib", "numpy", "paho-mqtt", "tuf",
)  # fmt: skip
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC = ("2014", "_2_17", "_2_24", "_2_26", "_2_27", "_2_28", "_2_31", "_2_34", "_2_35", "_2_36")
"""Every manylinux tag that Debian's glibc 2.36 satisfies: pip takes the tags word for word."""

_PARTS = {
    "cortex-a53": (0xD03, 4),
    "cortex-a57": (0xD07, 0),
    "cortex-a72": (0xD08, 3),
    "cortex-a76": (0xD0B, 1),
}
"""Part number and revision in a core's MIDR_EL1, from Arm's technical reference manuals."""

_KERNEL_NAMES = {"neon": "fp asimd", "crc32": "crc32", "dotprod": "asimddp", "fp16": "fphp asimdhp"}


@dataclass(frozen=True)
class Board:
    """One emulated board.

    root: what its programs see as ``/`` where a file is there, and the host's files elsewhere.
    site: its Python packages.
    """

    cpu: str
    root: Path
    site: Path
    qemu: str

    def run(self, program: Path, *arguments: str | Path, timeout_s: float = 240) -> str:
        """Run a Python program of this checkout on the board; returns its stdout.

        Raises:
            AssertionError: it ended with an error or a signal; its stderr is in the message.
        """
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.root),
            "PYTHONPATH": f"{self.site}:{ROOT}",
            "PYTHONPYCACHEPREFIX": str(self.site.parent / "pycache"),
            "PYTHONNOUSERSITE": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [
                self.qemu, "-cpu", self.cpu, "-L", self.root,
                self.root / "usr" / "bin" / PYTHON, program, *arguments,
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, (
            f"{program.name} on an emulated {self.cpu} ended with {done.returncode}:\n"
            f"{done.stderr[-3000:]}"
        )
        return done.stdout


def emulate(profile: DeviceProfile, root: Path, runtime: str = "onnxruntime") -> Board:
    """A board with the CPU of ``profile``; makes userland and packages where they are missing.

    Args:
        root: an empty directory: the userland by links, and what is this board's own.
        runtime: the only one that is installed there.

    Where that cannot be done the test is left out with the reason, and fails under CI=true.
    """
    qemu = _program("qemu-aarch64-static", "qemu-user-static")
    tree, site = userland("arm64"), site_packages("arm64", runtime)
    for entry in tree.iterdir():
        if entry.name not in ("sys", "proc"):
            (root / entry.name).symlink_to(entry)
    write_cpu_files(root, profile)
    return Board(profile.qemu_cpu, root, site, qemu)


def _program(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        leave_out(f"emulated boards need {name}: apt-get install {package}")
    return path


def leave_out(reason: str) -> NoReturn:
    """Skip with the reason; where CI=true nothing may be left out."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("WHERRY_DEVICE_CACHE") or Path(base) / "wherry" / "device")
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def userland(arch: str, *, with_systemd: bool = False) -> Path:
    """A Debian tree with Python for ``amd64`` or ``arm64``."""
    packages = (*_PACKAGES, *(_SYSTEMD if with_systemd else ()))
    # The merged /usr is made by a package's script, which is not run; systemd insists on it.
    hooks = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"

    def unpack(place: Path) -> list[str | Path]:
        # Unpacking runs no program of the packages, so it needs no emulation.
        return [
            _program("mmdebstrap", "mmdebstrap"), "--quiet", "--variant=extract", f"--arch={arch}",
            f"--include={','.join(packages)}", *([hooks] if with_systemd else []), SUITE, place,
        ]  # fmt: skip

    return _made_once(f"{SUITE}-{_key(arch, *packages)}", unpack)


def site_packages(arch: str, runtime: str = "onnxruntime") -> Path:
    """The agent's wheels for ``amd64`` or ``arm64``, and those of one runtime."""
    # The host's very version of the runtime: what is compared is the CPU, not the release.
    return _wheels_for(arch, (*_WHEELS, f"{runtime}=={version(runtime)}"))


def fleet_packages(arch: str) -> Path:
    """The manager's wheels: the base and the extra ``fleet``, as this checkout names them."""
    project = msgspec.toml.decode((ROOT / "pyproject.toml").read_bytes())["project"]
    named = (*project["dependencies"], *project["optional-dependencies"]["fleet"])
    return _wheels_for(arch, tuple(item for item in named if "python_version" not in item))


def _wheels_for(arch: str, wheels: tuple[str, ...]) -> Path:
    def install(place: Path) -> list[str | Path]:
        tags = [
            word for tag in _GLIBC for word in ("--platform", f"manylinux{tag}_{_MACHINES[arch]}")
        ]
        number = PYTHON.removeprefix("python")
        return [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--target", place, "--only-binary=:all:", "--implementation", "cp",
            "--python-version", number, *tags, *wheels,
        ]  # fmt: skip

    return _made_once(f"site-{_key(arch, *wheels)}", install)


def _key(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def _made_once(name: str, command_for: Callable[[Path], list[str | Path]]) -> Path:
    """The directory ``name`` of the cache, made by a command where it is not there yet."""
    place = _cache() / name
    if place.is_dir():
        return place
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=place.parent))
    fresh = scratch / "made"
    command = command_for(fresh)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        fresh.chmod(0o755)
        # Another run may have been quicker; its copy is as good.
        with suppress(OSError):
            fresh.rename(place)
    shutil.rmtree(scratch, ignore_errors=True)
    if not place.is_dir():
        leave_out(f"cannot make {name} for emulated boards: {done.stderr.strip()[-500:]}")
    return place


def write_cpu_files(root: Path, profile: DeviceProfile) -> None:
    """What the board's kernel would say of its CPU.

    onnxruntime's cpuinfo reads these files, finds the host's and crashes where they are missing;
    qemu gives a program those below its own root.
    """
    part, revision = _PARTS[profile.qemu_cpu]
    cores = profile.cores
    every = f"0-{cores - 1}"
    features = " ".join(_KERNEL_NAMES[name] for name in profile.features)
    cpu = root / "sys" / "devices" / "system" / "cpu"
    files = {"possible": every, "present": every, "online": every, "kernel_max": "255"}
    for core in range(cores):
        files |= {
            f"cpu{core}/topology/physical_package_id": "0",
            f"cpu{core}/topology/core_id": str(core),
            f"cpu{core}/topology/core_siblings_list": every,
            f"cpu{core}/topology/package_cpus_list": every,
            f"cpu{core}/topology/cluster_cpus_list": every,
            f"cpu{core}/topology/thread_siblings_list": str(core),
            f"cpu{core}/cpufreq/cpuinfo_min_freq": "600000",
            f"cpu{core}/cpufreq/cpuinfo_max_freq": "1500000",
            f"cpu{core}/regs/identification/midr_el1": f"0x00000000410f{part:03x}{revision:x}",
        }
    for name, text in files.items():
        path = cpu / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(
        "".join(
            f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\n"
            "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
            f"CPU part\t: 0x{part:03x}\nCPU revision\t: {revision}\n\n"
            for core in range(cores)
        )
    )
