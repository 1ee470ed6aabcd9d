"""The digits example: disjoint splits, the same bytes twice, a model as good as is said."""

from __future__ import annotations

import filecmp
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from examples.digits.corruptions import KINDS, apply_corruption
from examples.digits.frames import write_frames
from examples.digits.make_data import SEED, write_splits
from examples.digits.render import SPLITS, load_digits, render_frames, sources_of

HERE = Path(__file__).parents[2] / "examples" / "digits"
MODELS = ("digits_float.onnx", "digits_float_v2.onnx")


def accuracy(model: str, frames: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    session = ort.InferenceSession(HERE / model, providers=["CPUExecutionProvider"])
    inputs = (frames.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5
    (scores,) = session.run(None, {"frame": inputs})
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-4)
    return float((scores.argmax(axis=1) == labels).mean())


def test_no_source_digit_is_in_two_splits_and_test_has_600() -> None:
    splits = {name: set(sources_of(name).tolist()) for name in SPLITS}
    assert not any(splits[a] & splits[b] for a, b in combinations(SPLITS, 2))
    assert sum(map(len, splits.values())) == 1797
    assert len(splits["test"]) >= 600


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    write_splits(tmp_path / "one")
    write_splits(tmp_path / "two")
    names = ["calibration.npz", "selection.npz", "test.npz"]
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", names, shallow=False)[0] == names
    with np.load(tmp_path / "one" / "test.npz", allow_pickle=False) as test:
        assert test["x"].dtype == np.uint8
        assert test["x"].shape[1:] == (32, 32, 1)
        assert test["y"].dtype == np.int64
        assert len(test["x"]) == len(test["y"]) >= 600


@pytest.mark.parametrize("model", MODELS)
def test_the_shipped_models_are_small_and_as_good_as_the_readme_says(model: str) -> None:
    assert (HERE / model).stat().st_size < 300_000
    sources = sources_of("test")
    labels = load_digits().labels[sources]
    assert accuracy(model, render_frames(sources, seed=SEED), labels) >= 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_a_severe_corruption_costs_accuracy(kind: str) -> None:
    sources = sources_of("test")
    labels = load_digits().labels[sources]
    rng = np.random.default_rng(0)
    frames = render_frames(sources, seed=SEED)
    worse = np.stack([apply_corruption(f, kind, 5, rng) for f in frames])  # type: ignore[arg-type]
    assert accuracy(MODELS[0], worse, labels) <= accuracy(MODELS[0], frames, labels) - 0.03


def test_a_corrupted_directory_shows_the_same_scenes(tmp_path: Path) -> None:
    write_frames(tmp_path / "clean", count=12, seed=1)
    write_frames(tmp_path / "dark", count=12, seed=1, corrupt="dark", severity=3)
    for number in range(12):
        clean, dark = (
            cv2.imread(str(tmp_path / name / f"{number:05d}.png"), cv2.IMREAD_GRAYSCALE)
            for name in ("clean", "dark")
        )
        assert dark.mean() < 0.5 * clean.mean()
        assert np.corrcoef(clean.ravel(), dark.ravel())[0, 1] > 0.7
