"""Drift features: they move with what they are named for, and take whatever a model takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edge_contract.model import TensorSpec
from edge_runtime.classes import ClassScores
from edge_runtime.features import (
    NO_CLASS,
    extract,
    feature_names,
    frame_features,
    output_features,
)
from tests.contract.test_documents import model

NAMES = feature_names()
SCORES = np.array([0.1, 0.7, 0.2], np.float32)


def scene(seed: int = 0, size: int = 32) -> npt.NDArray[np.float64]:
    """A smooth bright blob on a dark ground, 0..255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    blob = 160 * np.exp(-((x - 0.5) ** 2 + (y - 0.45) ** 2) / 0.05)
    return 40 + blob + 2 * rng.standard_normal((size, size))


def features_of(frame: npt.NDArray[np.generic]) -> dict[str, float]:
    values, _ = extract(frame, SCORES)
    return dict(zip(NAMES, values.tolist(), strict=True))


def test_names_match_the_values_for_images_and_tensors() -> None:
    values, class_id = extract(scene(), SCORES)
    assert values.shape == (len(NAMES),) == (len(feature_names(image=False)),)
    assert values.dtype == np.float64
    assert class_id == 1
    assert NAMES[0] == "brightness"
    assert feature_names(image=False)[0] == "mean"


def test_brightness_and_contrast_are_mean_and_standard_deviation() -> None:
    frame = scene().astype(np.uint8)
    found = features_of(frame)
    assert found["brightness"] == pytest.approx(frame.mean(), rel=1e-5)
    assert found["contrast"] == pytest.approx(frame.std(), rel=1e-5)


def test_fine_structure_equals_the_formulas() -> None:
    frame = np.random.default_rng(4).random((7, 9))
    _, _, sharpness, noise, high_frequency = frame_features(frame)
    inner = frame[1:-1, 1:-1]
    laplacian = frame[:-2, 1:-1] + frame[2:, 1:-1] + frame[1:-1, :-2] + frame[1:-1, 2:] - 4 * inner
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    windows = np.lib.stride_tricks.sliding_window_view(frame, (3, 3))
    first = (np.diff(frame, axis=0) ** 2).mean() + (np.diff(frame, axis=1) ** 2).mean()
    assert sharpness == pytest.approx(laplacian.var(), rel=1e-4)
    assert noise == pytest.approx(np.abs((windows * mask).sum((2, 3))).mean(), rel=1e-4)
    assert high_frequency == pytest.approx(first / (4 * frame.var()), rel=1e-4)


def test_each_corruption_moves_the_feature_named_for_it() -> None:
    clean = scene()
    base = features_of(clean)
    kernel = np.ones(5) / 5
    blurred = np.apply_along_axis(lambda row: np.convolve(row, kernel, "same"), 1, clean)
    noisy = clean + 15 * np.random.default_rng(2).standard_normal(clean.shape)
    assert features_of(clean * 0.3)["brightness"] < 0.5 * base["brightness"]
    assert features_of(clean * 0.3)["contrast"] < 0.5 * base["contrast"]
    assert features_of(noisy)["noise"] > 3 * base["noise"]
    assert features_of(noisy)["high_frequency"] > 3 * base["high_frequency"]
    assert features_of(blurred[:, 3:-3])["sharpness"] < 0.7 * base["sharpness"]


def test_white_noise_has_a_high_frequency_of_one() -> None:
    noise = np.random.default_rng(0).standard_normal((200, 200))
    assert frame_features(noise)[4] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    "shape", [(32, 32), (32, 32, 1), (1, 32, 32, 1), (1, 1, 32, 32), (1, 32, 32)]
)
def test_axes_of_length_one_do_not_matter(shape: tuple[int, ...]) -> None:
    frame = scene().astype(np.float32)
    np.testing.assert_allclose(
        frame_features(frame.reshape(shape)), frame_features(frame), rtol=1e-6
    )


def test_channels_are_averaged_first_or_last() -> None:
    rng = np.random.default_rng(0)
    planes = rng.random((3, 20, 24), np.float32)
    grey = frame_features(planes.mean(0))
    np.testing.assert_allclose(frame_features(planes), grey, rtol=1e-4)
    np.testing.assert_allclose(frame_features(planes.transpose(1, 2, 0)), grey, rtol=1e-4)


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (2,), (3,), (40,), (1, 2), (2, 2), (2, 9), (9, 2), (49, 10, 1), (5, 6, 7, 8)],
)
def test_tensors_of_any_rank_have_finite_features(shape: tuple[int, ...]) -> None:
    frame = np.random.default_rng(0).standard_normal(shape)
    values, _ = extract(np.asarray(frame), SCORES)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.bool_, np.float16, np.float64])
def test_every_numeric_dtype_is_taken(dtype: type[np.generic]) -> None:
    values, _ = extract(scene().clip(0, 100).astype(dtype), SCORES)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("level", [0, 255, 0.1])
def test_a_constant_frame_has_no_structure(level: float) -> None:
    found = features_of(np.full((32, 32), level, np.float32))
    assert found["brightness"] == pytest.approx(level, rel=1e-6)
    for name in ("contrast", "sharpness", "noise", "high_frequency"):
        assert found[name] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("error")
def test_a_bad_pixel_gives_nan_and_no_warning(bad: float) -> None:
    frame = scene()
    frame[3, 4] = bad
    values, class_id = extract(frame, SCORES)
    assert np.isnan(values[1:5]).all()
    assert np.isfinite(values[5:]).all()
    assert class_id == 1


@pytest.mark.filterwarnings("error")
def test_bad_scores_give_nan_and_no_class() -> None:
    values, class_id = extract(scene(), np.array([0.1, np.nan, 0.3]))
    assert np.isfinite(values[:5]).all()
    assert np.isnan(values[5:]).all()
    assert class_id == NO_CLASS


def test_an_empty_frame_and_a_table_of_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(0, 4\)"):
        frame_features(np.zeros((0, 4)))
    for scores in (np.zeros((2, 3)), np.zeros(0)):
        with pytest.raises(ValueError, match="one row of scores"):
            output_features(scores)


def test_probabilities_are_read_as_they_are() -> None:
    confidence, entropy, margin, class_id = output_features(np.array([[0.1, 0.7, 0.2]]))
    assert confidence == pytest.approx(np.log(0.7 / 0.3), abs=1e-4)
    assert entropy == pytest.approx(0.8018, abs=1e-4)
    assert margin == pytest.approx(0.5)
    assert class_id == 1


def test_logits_and_their_softmax_mean_the_same() -> None:
    logits = np.array([-3.0, 4.0, 1.5, 0.0])
    softmax = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(output_features(logits), output_features(softmax), atol=1e-5)
    np.testing.assert_allclose(output_features(logits + 1000), output_features(softmax), atol=1e-5)


def test_int8_probabilities_need_not_sum_to_one() -> None:
    exact = np.array([0.6] + [0.4 / 11] * 11)
    rounded = np.round(exact * 256) / 256
    assert abs(rounded.sum() - 1) > 0.001
    np.testing.assert_allclose(output_features(rounded)[:3], output_features(exact)[:3], rtol=0.1)


def test_certainty_and_ignorance_are_finite() -> None:
    sure = output_features(np.array([0.0, 1.0, 0.0]))
    assert sure[0] == pytest.approx(13.8155, abs=1e-3)
    assert sure[1:] == (pytest.approx(0.0, abs=1e-9), 1.0, 1)
    unsure = output_features(np.zeros(4))
    assert unsure[1] == pytest.approx(np.log(4))
    assert unsure[2] == 0.0


def test_one_score_of_two_classes_is_as_sure_as_its_probability() -> None:
    with pytest.raises(ValueError, match="two or more"):
        output_features(np.array([0.9]))
    logit = np.array([[2.5], [-0.3], [0.7]], np.float32)
    probability = 1 / (1 + np.exp(-logit))
    one, pairs = TensorSpec(name="y", dtype="float32", shape=[None, 1]), []
    for said, rows in (("logit", logit), ("probability", probability)):
        classes = ClassScores(model(outputs=[one], single_score=said))
        assert classes.count == 2
        pairs.append([output_features(row) for row in classes.of(rows)])
        sure = [classes.confidence(row.max()) for row in classes.of(rows)]
        assert sure == pytest.approx(np.maximum(probability, 1 - probability)[:, 0], abs=1e-6)
        # At the threshold itself no class was found.
        assert classes.of(np.full(1, 0.5 * (said == "probability"), np.float32)).argmax() == 0
    assert [one[3] for one in pairs[0]] == [1, 0, 1]
    np.testing.assert_allclose(pairs[0], pairs[1], atol=1e-5)
