"""A device as a person would set it up: a signed bundle, a root, frames and a configuration."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from examples.digits.frames import write_frames
from fleet.repository.tuf_repository import Repository
from tests.agent.bundles import HARDWARE, digits_bundle

ROOT = Path(__file__).parents[2]


@dataclass
class Bench:
    """One device's directory and the processes started on it."""

    home: Path
    repository: Repository
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def config(self) -> Path:
        return self.home / "agent.toml"

    def configure(self, extra: str = "", **device: str) -> None:
        """Write the configuration; ``extra`` is appended."""
        facts = {
            "fleet": "test",
            "id": "cam-1",
            "hardware": HARDWARE,
            "line": "digits",
            "state_dir": str(self.state),
        } | device
        lines = "\n".join(f'{key} = "{value}"' for key, value in facts.items())
        self.config.write_text(
            f'[device]\n{lines}\n[trust]\nroot = "{self.home / "root.json"}"\n'
            f'[source]\nkind = "directory"\npath = "{self.home / "frames"}"\nrate_hz = 60\n'
            f'[output]\npredictions = "{self.home / "predictions.jsonl"}"\n'
            "[telemetry]\nwindow_s = 1\nledger = true\n"
            "[drift]\nsample_hz = 120\ncommission_samples = 100\nwindow_s = 2\n"
            "[health]\ntrial_s = 1\nframes_min = 20\ndeadline_s = 30\n"
            f"latency_ratio_max = 10\n{extra}"
        )

    def bundle(self, version: str = "1.0.0", *, model: bytes | None = None) -> Path:
        """A published bundle with its approval beside it."""
        path = self.home / version / "bundle"
        digits_bundle(path, version, model=model)
        self.repository.publish(path, approval=path.parent / "approval.json")
        return path

    def agent(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one ``edge-agent`` command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "edge_agent.cli", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
            check=False,
        )

    def install(self, bundle: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
        """``edge-agent install`` with this bench's root."""
        return self.agent(
            *("install", bundle, "--trust", self.home / "root.json", "--config", self.config),
            *more,
        )

    def start(self, program: str = "edge_agent.cli") -> subprocess.Popen[str]:
        """Start ``edge-agent run``; its log is ``agent.log``."""
        log = (self.home / "agent.log").open("a")
        process = subprocess.Popen(
            [sys.executable, "-m", program, "run", "--config", str(self.config)],
            stdout=log,
            stderr=log,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.processes.append(process)
        return process

    def predictions(self) -> list[dict[str, Any]]:
        """Every whole line of the predictions file."""
        path = self.home / "predictions.jsonl"
        if not path.exists():
            return []
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def wait(self, what: str, ready: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        """Ask until true; fails with the agent's log."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            answer = ready()
            if answer:
                return answer
            time.sleep(0.1)
        log = self.home / "agent.log"
        pytest.fail(f"in vain: {what}\n{log.read_text() if log.exists() else 'no log'}")

    def status(self) -> dict[str, Any]:
        """``edge-agent status --json``; empty where no agent answers."""
        done = self.agent("status", "--state-dir", self.state, "--json")
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def facts(self) -> list[tuple[str, str, str]]:
        """(what, slot, version) of the update journal, in order."""
        journal = self.state / "update" / "journal"
        entries = [json.loads(line) for line in journal.read_text().splitlines()]
        return [
            (fact["what"], fact["slot"], fact.get("version", ""))
            for entry in entries
            for fact in entry.get("facts", [])
        ]

    def stop(self, process: subprocess.Popen[str]) -> int:
        """SIGTERM and wait."""
        process.send_signal(signal.SIGTERM)
        return process.wait(30)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A device with a configuration, frames and a trusted root; nothing installed."""
    repository = Repository(tmp_path / "repository", "test", time.time)
    repository.initialise()
    (tmp_path / "root.json").write_bytes(repository.root_bytes())
    write_frames(tmp_path / "frames", count=120, seed=1)
    made = Bench(tmp_path, repository)
    made.configure()
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
            process.wait()
