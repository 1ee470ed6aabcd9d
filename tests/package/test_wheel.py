"""What a device gets: the wheel with ``[agent]`` alone, in a clean environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from benchmarks.agent_memory import LIMIT_MB, Device, loaded, resident_mb

ROOT = Path(__file__).parents[2]
SERVER_PACKAGES = (
    "onnx", "sqlalchemy", "alembic", "starlette", "uvicorn", "rich", "click", "jinja2", "scipy",
    "httpx", "iotcore", "cv2", "serial", "bsdiff4",
)  # fmt: skip


@pytest.fixture(scope="session")
def agent_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("wheel")
    run = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", work, ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = work.glob("*.whl")
    venv.create(work / "env", with_pip=True)
    python = work / "env" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"{wheel}[agent]"],
        check=True,
    )
    return python


def run_there(python: Path, code: str) -> str:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True, env=env, cwd="/"
    ).stdout


def test_no_server_package_is_installed_with_the_agent_alone(agent_python: Path) -> None:
    code = "import importlib.util as u, json; print(json.dumps([n for n in %r if u.find_spec(n)]))"
    assert json.loads(run_there(agent_python, code % (SERVER_PACKAGES,))) == []


def test_the_agent_imports_nothing_of_the_compiler_or_the_fleet(agent_python: Path) -> None:
    code = """
import json, sys
import edge_agent.cli, edge_agent.agent
print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))
"""
    loaded = set(json.loads(run_there(agent_python, code)))
    assert "edge_runtime" in loaded
    assert not loaded & {*SERVER_PACKAGES, "compiler", "fleet"}


def test_a_missing_extra_says_what_to_install(agent_python: Path, tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(b"x")
    code = f"""
from pathlib import Path
from edge_agent.errors import AgentError
from edge_agent.infer.source import read_file
try:
    read_file(Path({str(tmp_path / "frame.png")!r}))
except AgentError as error:
    print(error.hint)
"""
    assert "wherry[vision]" in run_there(agent_python, code)


def test_the_agent_alone_stays_within_its_memory(
    agent_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``benchmarks/agent_memory.py`` measures it, on some hundred frames of a 4 MB model."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    device = Device(tmp_path, vision=False, python=str(agent_python))
    device.configure(rate_hz=100)
    with device.running() as pid:
        device.install("1.0.0")
        device.wait("some hundred frames", lambda: device.answered() >= 300)
        assert not loaded(pid, "cv2")
        assert loaded(pid, "libssl")
        assert resident_mb(pid) <= LIMIT_MB["without vision"]


def test_bundled_profiles_and_migrations_travel_in_the_wheel(agent_python: Path) -> None:
    code = "from device_configs.loader import profile_ids; print(profile_ids())"
    assert "raspberry-pi-4" in run_there(agent_python, code)
    code = """
import importlib.util, pathlib
(package,) = importlib.util.find_spec("fleet").submodule_search_locations
print(len(list(pathlib.Path(package).glob("store/migrations/versions/*.py"))))
"""
    assert int(run_there(agent_python, code)) >= 1
