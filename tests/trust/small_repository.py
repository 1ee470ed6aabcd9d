"""A repository with development keys, its clock, and a device that was given its root."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_agent.trust.verifier import TrustStore
from fleet.repository.tuf_repository import Repository
from tests.trust.tuf_simulator import NOW_S


class Clock:
    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def repository(tmp_path: Path, clock: Callable[[], float] | None = None) -> Repository:
    return Repository(tmp_path / "state", "shop", clock or Clock())


def approved_by_device(repo: Repository, tmp_path: Path, line: str = "digits") -> dict[str, str]:
    """What a device that was given the root approves: version -> digest."""
    store = TrustStore(tmp_path / "device", root=repo.root_bytes())
    approved = store.verify(repo.metadata_set(line), reference_s=NOW_S)
    return {version: target.digest for version, target in approved.targets.items()}
