"""Builds ``wherry-agent_VERSION_ARCH.deb``: the agent with an environment of its own.

The package holds a virtual environment below ``/opt/wherry`` with every wheel in it, so that
nothing is fetched on the device and the system's Python packages are left alone (PEP 668). Wheels
are those of the target, so an arm64 package is built on x86-64 as well. Only pip and dpkg-deb
are used.

The same checkout, the same resolved wheels and the same ``SOURCE_DATE_EPOCH`` (by default the time
of the last commit) give the same bytes; ``--constraint`` pins the wheels. What is inside stands in
``/usr/share/doc/wherry-agent/packages.txt``.

``python packaging/deb/build.py --arch arm64 [--python 3.11] [--extras agent,vision] [--out dist]``
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SCRIPTS = ("postinst", "prerm")
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC = ("2014", "_2_17", "_2_24", "_2_26", "_2_27", "_2_28", "_2_31", "_2_34", "_2_35", "_2_36")
"""manylinux tags that Debian 12's glibc 2.36 satisfies: pip takes the tags word for word."""


def run(*words: str | Path, **environment: str) -> str:
    """Run a program; returns stdout.

    Raises:
        SystemExit: it failed; says what it wrote.
    """
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{words[0]} failed: {(done.stderr or done.stdout).strip()[-3000:]}")
    return done.stdout


def source_date() -> str:
    """``SOURCE_DATE_EPOCH``, or the time of the last commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given and not given.isdecimal():
        raise SystemExit(f"SOURCE_DATE_EPOCH: expected seconds since 1970, got {given!r}")
    return given or run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()


def own_version() -> str:
    """The version that this checkout says it is."""
    text = (ROOT / "edge_contract" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise SystemExit("edge_contract/__init__.py: expected a line with __version__")
    return found.group(1)


def own_wheel(work: Path, epoch: str) -> Path:
    """The wheel of this checkout."""
    words = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work, ROOT)
    run(sys.executable, *words, SOURCE_DATE_EPOCH=epoch, PIP_DISABLE_PIP_VERSION_CHECK="1")
    (wheel,) = work.glob("wherry-*.whl")
    return wheel


def fill_environment(tree: Path, wheel: Path, arch: str, python: str, options: list[str]) -> None:
    """A virtual environment for ``python`` of the target, made by hand: nothing of it is run."""
    environment = tree / "opt" / "wherry"
    site = environment / "lib" / f"python{python}" / "site-packages"
    tags = [word for tag in GLIBC for word in ("--platform", f"manylinux{tag}_{MACHINES[arch]}")]
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--no-compile", "--target", site, "--only-binary=:all:", "--implementation", "cp",
        "--python-version", python, *tags, *options, str(wheel),
    )  # fmt: skip
    # Commands for this machine's Python, and where the wheel lay on it.
    shutil.rmtree(site / "bin", ignore_errors=True)
    for record in site.glob("*.dist-info/RECORD"):
        lines = record.read_text().splitlines(keepends=True)
        kept = [x for x in lines if not x.startswith("../") and "direct_url.json" not in x]
        record.write_text("".join(sorted(kept)))
    for name in site.glob("*.dist-info/direct_url.json"):
        name.unlink()
    (environment / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n"
    )
    commands = environment / "bin"
    commands.mkdir()
    (commands / "python3").symlink_to(f"/usr/bin/python{python}")
    (commands / "edge-agent").write_text(
        "#!/opt/wherry/bin/python3\nimport sys\n\nfrom edge_agent.cli import main\n\n"
        "sys.exit(main())\n"
    )
    packages = sorted(path.name.removesuffix(".dist-info") for path in site.glob("*.dist-info"))
    write(
        tree / "usr/share/doc/wherry-agent/packages.txt",
        "".join(f"{name.replace('-', ' ', 1)}\n" for name in packages),
    )


def say(text: str) -> None:
    """Progress, apart from the answer."""
    print(text, file=sys.stderr, flush=True)


def write(path: Path, text: str) -> None:
    """A file, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def fill_control(tree: Path, version: str, arch: str, python: str) -> None:
    """``DEBIAN/``, the example of a configuration and the command on the path."""
    size_kb = sum(p.lstat().st_size for p in tree.rglob("*") if p.is_file()) // 1024
    major, minor = python.split(".")
    write(
        tree / "DEBIAN" / "control",
        f"Package: wherry-agent\nVersion: {version}\nArchitecture: {arch}\n"
        "Section: misc\nPriority: optional\nMaintainer: the owner of this fleet <root@localhost>\n"
        f"Installed-Size: {size_kb}\n"
        f"Depends: python3 (>= {python}), python3 (<< {major}.{int(minor) + 1}), libc6 (>= 2.36),"
        " libstdc++6\n"
        "Description: runs a model on this device and keeps it honest\n"
        " Infers offline, updates models safely in two slots, spools telemetry and watches\n"
        " for drift. The package brings a Python environment of its own in /opt/wherry.\n",
    )
    write(tree / "DEBIAN" / "conffiles", "/etc/wherry/agent.toml.example\n")
    for name in SCRIPTS:
        write(tree / "DEBIAN" / name, (HERE / name).read_text())
    write(tree / "etc/wherry/agent.toml.example", (HERE / "agent.toml.example").read_text())
    write(tree / "usr/share/doc/wherry-agent/copyright", (ROOT / "LICENSE").read_text())
    (tree / "usr/bin").mkdir()
    (tree / "usr/bin/edge-agent").symlink_to("/opt/wherry/bin/edge-agent")


def settle_modes(tree: Path) -> None:
    """Modes that do not depend on this machine's umask."""
    programs = {tree / "opt/wherry/bin/edge-agent", *(tree / "DEBIAN" / name for name in SCRIPTS)}
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in programs else 0o644)


def main() -> int:
    """Build one package."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--arch", choices=sorted(MACHINES), default="arm64")
    parser.add_argument("--python", default="3.11", help="of the device: Debian 12 has 3.11")
    parser.add_argument("--extras", default="agent", help="such as agent,vision,tflite")
    parser.add_argument("--version", default="", help="of the package (default: the agent's)")
    parser.add_argument("--constraint", type=Path, help="a pip constraints file")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--level", default="6", choices=list("0123456789"), help="of xz")
    arguments = parser.parse_args()
    if shutil.which("dpkg-deb") is None:
        raise SystemExit("dpkg-deb is missing: apt-get install dpkg")
    epoch, version = source_date(), arguments.version or own_version()
    options = ["--constraint", str(arguments.constraint)] if arguments.constraint else []
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / f"wherry-agent_{version}_{arguments.arch}.deb"
    with tempfile.TemporaryDirectory() as scratch:
        work, tree = Path(scratch), Path(scratch) / "tree"
        tree.mkdir()
        say("building the agent's wheel")
        wheel = f"{own_wheel(work, epoch)}[{arguments.extras}]"
        say(
            f"fetching what it needs ({arguments.arch}, Python {arguments.python}): a minute or two"
        )
        fill_environment(tree, Path(wheel), arguments.arch, arguments.python, options)
        fill_control(tree, version, arguments.arch, arguments.python)
        settle_modes(tree)
        say("packing")
        run(
            "dpkg-deb", "--root-owner-group", "-Zxz", f"-z{arguments.level}", "--build", tree,
            target, SOURCE_DATE_EPOCH=epoch,
        )  # fmt: skip
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
