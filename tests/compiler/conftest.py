"""One small model and its data for the whole folder, and the command line as a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compiler.cli import main
from tests.compiler.models import frames, small_cnn, write_npz


@dataclass(frozen=True)
class Small:
    """Paths of a model and of its data."""

    folder: Path
    model: Path
    calibration: Path
    selection: Path
    test: Path

    def arguments(self, out: Path, *more: str, **changed: str | Path) -> list[str]:
        """Arguments of a build that passes, with the options in ``changed`` replaced."""
        options = {
            "name": "stripes",
            "version": "1.0.0",
            "target": "raspberry-pi-4",
            "calibration": self.calibration,
            "test": self.test,
            "max-drop-pp": "3",
            "out": out,
            **{key.replace("_", "-"): value for key, value in changed.items() if key != "model"},
        }
        words = ["build", str(changed.get("model", self.model))]
        for key, value in options.items():
            words += [f"--{key}", str(value)]
        return [*words, *more]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small")
    onnx.save(small_cnn(), folder / "model.onnx")
    for name, rows, seed in (("calibration", 80, 11), ("selection", 30, 12), ("test", 500, 13)):
        x, y = frames(rows, seed)
        write_npz(folder / f"{name}.npz", x=x, y=y)
    return Small(
        folder,
        *(folder / name for name in ("model.onnx", "calibration.npz", "selection.npz", "test.npz")),
    )


@pytest.fixture(scope="session")
def built(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small model was built, once; a build that fails must leave it as it is."""
    out = tmp_path_factory.mktemp("built")
    with pytest.raises(SystemExit) as ended:
        main.main(small.arguments(out))
    assert ended.value.code == 0
    return out


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found


Command = Callable[[list[str]], Ended]
"""The command line, called with its arguments."""


@pytest.fixture
def edge_compile(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process; stdout and stderr are caught at the descriptors, so
    that what native code prints counts, too."""

    def run(arguments: list[str]) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main(arguments)
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out, err)

    return run


@pytest.fixture
def seeded() -> np.random.Generator:
    """A random source that repeats."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Calibration statistics are cached here and not in the home of who runs the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
