"""``edge-compile doctor``: what would keep a build from working, each with the next step."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from compiler.commands.targets import read_profiles
from compiler.commands.terminal import emit, json_option
from edge_contract.errors import ExitCode

FREE_BYTES_MIN = 500_000_000
"""A build holds the float model, candidates and the bundle at the same time."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; ``hint`` is the next step where it is not well."""

    check: str
    ok: bool
    text: str
    hint: str = ""


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    help="Directory where builds shall write.",
)
@json_option
def doctor(out: Path, as_json: bool) -> int:
    """Check the runtime, OpenCV, the disk and the device profiles.

    Exits with 0 when all is well, 1 otherwise.
    """
    from device_configs.loader import SYSTEM_DIR

    checks = list(examine(out, SYSTEM_DIR))
    well = all(check.ok for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{'ok  ' if check.ok else 'FAIL'} {check.check}: {check.text}")
        if check.hint:
            lines.append(f"     try: {check.hint}")
    emit({"ok": well, "checks": [asdict(check) for check in checks]}, lines, as_json=as_json)
    return ExitCode.OK if well else ExitCode.FAILURE


def examine(out: Path, system_dir: Path) -> Iterator[Check]:
    """Look at everything that a build needs."""
    yield from (
        _package("onnxruntime", "the runtime", "pip install 'wherry[compile]'"),
        _package("onnx", "graphs", "pip install 'wherry[compile]'"),
        _package("cv2", "OpenCV resizes images", "pip install 'wherry[compile]'"),
        _cpu(Path("/proc/cpuinfo")),
        _disk("output", out),
        _disk("scratch", Path(tempfile.gettempdir())),
    )
    profiles, broken = read_profiles(system_dir)
    yield Check("profiles", True, f"{len(profiles)} device profiles")
    for name, text in broken.items():
        yield Check("profiles", False, text, f"correct or remove {system_dir}/{name}.toml")


def _package(name: str, purpose: str, hint: str) -> Check:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return Check(name, False, f"{purpose}: cannot be imported: {error}", hint)
    return Check(name, True, f"{purpose}, {module.__version__}")


def _cpu(cpuinfo: Path) -> Check:
    """A CPU that only shows other figures is no fault; it is named so that nobody is misled."""
    text = f"{platform.machine()}, {os.cpu_count()} CPUs"
    if platform.machine() == "x86_64" and cpuinfo.is_file():
        flags = set(cpuinfo.read_text(errors="replace").split())
        if not flags & {"avx512_vnni", "avx_vnni"}:
            text += "; without VNNI: u8s8 sums can saturate, so answers may differ"
    return Check("cpu", True, text)


def _disk(name: str, path: Path) -> Check:
    place = path.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Check(name, False, f"{place} cannot be written", "give another directory")
    free_bytes = shutil.disk_usage(place).free
    text = f"{free_bytes / 1e9:.1f} GB free at {place}"
    enough = free_bytes >= FREE_BYTES_MIN
    return Check(name, enough, text, "" if enough else "free some space")
