"""Drift features: a few numbers about one sample's input and output, cheap enough for a device.

The frame features read the raw input frame, before preprocessing: level, spread, and three views
of fine structure, which move with exposure, dirt, defocus, compression and sensor noise. The
output features read the model's scores: how sure it was. The predicted class goes beside them as
a category. All are compared by rank against bins of a reference, so only their order matters and
any scale of the input will do.

numpy only. A 32x32 frame takes about 30 us, 224x224x3 about 1 ms: take samples, not every frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Frame = npt.NDArray[Any]

_IMAGE_NAMES = ("brightness", "contrast", "sharpness", "noise", "high_frequency")
_TENSOR_NAMES = ("mean", "spread", "roughness", "noise", "high_frequency")
_OUTPUT_NAMES = ("confidence", "entropy", "margin")
_VALUE_NAMES = ("output_mean", "output_spread", "output_max")

NO_CLASS = -1
"""The class of scores that hold NaN; a reference counts it with 'every other class'."""

_SURE = 1e-6
"""Keeps the confidence finite: log((p + s) / (1 - p + s)) stays within +-13.8."""

_MAX_CHANNELS = 4


def feature_names(*, image: bool = True, classes: bool = True) -> tuple[str, ...]:
    """Names of what ``extract`` returns, in order; ``image=False`` has neutral words for tensors.

    The numbers are the same either way: only a reader cares that the mean of a frame is its
    brightness. ``classes=False`` is for models that do not classify.
    """
    outputs = _OUTPUT_NAMES if classes else _VALUE_NAMES
    return (*(_IMAGE_NAMES if image else _TENSOR_NAMES), *outputs)


def extract(frame: Frame, scores: Frame, *, classes: bool = True) -> tuple[Array, int]:
    """Drift features and predicted class of one sample.

    Args:
        frame: the raw input of one sample, any numeric dtype and rank. Axes of length 1 are
            dropped; then up to 4 channels, last (or first), are averaged; ranks above 2 are
            flattened to rows.
        scores: the model's C scores for it, dequantised; axes of length 1 are dropped.
            Probabilities, logits or any other scores of at least two classes.
        classes: False where the scores are no scores of classes but any row of values: then their
            mean, standard deviation and maximum are the output features, and there is no class.

    Returns:
        float64 ``[8]`` in the order of ``feature_names`` (NaN where the sample held NaN) and the
        index of the largest score (``NO_CLASS`` where a score was NaN).

    Raises:
        ValueError: an empty frame, or scores that are not one row.
    """
    features = np.empty(8, np.float64)
    with np.errstate(all="ignore"):  # infinities and NaN become NaN features, which are counted
        features[:5] = frame_features(frame)
        if classes:
            features[5], features[6], features[7], class_id = output_features(scores)
        else:
            features[5], features[6], features[7] = scores.mean(), scores.std(), scores.max()
            class_id = NO_CLASS
    return features, class_id


def frame_features(frame: Frame) -> tuple[float, float, float, float, float]:
    """Level, spread and fine structure of one frame of any shape.

    - mean and standard deviation;
    - sharpness: variance of the 4-neighbour Laplacian (Pech-Pacheco et al., ICPR 2000);
    - noise: mean absolute response to the product of both second differences, which cancels
      edges and ramps (Immerkaer, "Fast Noise Variance Estimation", 1996);
    - high frequency: mean squared first difference over twice the variance (von Neumann, 1941):
      0 for a smooth frame, 1 for white noise; 0 for a constant frame.

    Along an axis shorter than 3 there is no second difference, and the other axis stands alone.

    Raises:
        ValueError: the frame is empty.
    """
    pixels = as_rows(frame)
    rows, columns = pixels.shape
    mean = float(pixels.sum()) / pixels.size
    centred = pixels - np.float32(mean)  # differences ignore the level, sums of squares need it
    variance = _sum_of_squares(centred) / centred.size

    across = centred[:, 1:] - centred[:, :-1]
    down = centred[1:] - centred[:-1]
    first = _sum_of_squares(across) / max(across.size, 1) + _sum_of_squares(down) / max(
        down.size, 1
    )
    directions = (columns > 1) + (rows > 1)
    high_frequency = first / (2 * directions * variance) if variance != 0.0 else 0.0

    if rows > 2 and columns > 2:
        second_across = across[:, 1:] - across[:, :-1]
        second_down = down[1:] - down[:-1]
        laplacian = second_across[1:-1] + second_down[:, 1:-1]
        mixed = second_across[2:] - second_across[1:-1]
        mixed -= second_across[1:-1] - second_across[:-2]
    elif columns > 2:
        laplacian = mixed = across[:, 1:] - across[:, :-1]
    elif rows > 2:
        laplacian = mixed = down[1:] - down[:-1]
    else:
        return mean, variance**0.5, 0.0, 0.0, high_frequency
    level = float(laplacian.sum()) / laplacian.size
    sharpness = max(_sum_of_squares(laplacian) / laplacian.size - level * level, 0.0)
    noise = float(np.abs(mixed).sum()) / mixed.size
    return mean, variance**0.5, sharpness, noise, high_frequency


def as_rows(frame: Frame) -> npt.NDArray[np.float32]:
    """A frame of any shape as float32 ``[rows, columns]``; see ``extract`` for the rules.

    Raises:
        ValueError: the frame is empty.
    """
    pixels = frame.astype(np.float32)
    if pixels.size == 0:
        raise ValueError(f"drift features need a frame with values, got shape {frame.shape}")
    if 1 in pixels.shape:
        pixels = pixels.squeeze()
    if pixels.ndim == 2:
        return pixels
    if pixels.ndim == 3 and pixels.shape[2] <= _MAX_CHANNELS:
        return _mean_channel(pixels, pixels.shape[2], last=True)
    if pixels.ndim == 3 and pixels.shape[0] <= _MAX_CHANNELS:
        return _mean_channel(pixels, pixels.shape[0], last=False)
    return pixels.reshape(-1, pixels.shape[-1] if pixels.ndim else 1)


def _mean_channel(
    pixels: npt.NDArray[np.float32], channels: int, *, last: bool
) -> npt.NDArray[np.float32]:
    # Adding planes is several times quicker than a mean over a short axis.
    total: npt.NDArray[np.float32] = (
        pixels[..., 0] + pixels[..., 1] if last else pixels[0] + pixels[1]
    )
    for channel in range(2, channels):
        total += pixels[..., channel] if last else pixels[channel]
    total *= np.float32(1 / channels)
    return total


def _sum_of_squares(values: npt.NDArray[np.float32]) -> float:
    flat = values.ravel()
    return float(np.dot(flat, flat))


def output_features(scores: Frame) -> tuple[float, float, float, int]:
    """Confidence, entropy, margin and class of one row of scores.

    - confidence: log-odds of the largest probability, kept within +-13.8;
    - entropy of the probabilities in nats;
    - margin: largest minus second largest probability.

    Scores from 0 up with a sum within [0.5, 1.5] are taken as probabilities (int8 ones do not
    sum to exactly 1) and scaled to sum 1; all others go through softmax.

    Raises:
        ValueError: the scores are not one row.
    """
    row = scores.astype(np.float64)
    if row.size < 2 or row.size != max(row.shape):
        raise ValueError(
            f"drift features need one row of scores, two or more, got shape {scores.shape}"
        )
    row = row.reshape(-1)
    top = int(row.argmax())
    total = float(row.sum())
    if total != total:
        return np.nan, np.nan, np.nan, NO_CLASS
    if 0.5 <= total <= 1.5 and row.min() >= 0.0:
        probabilities = row / total
    else:
        probabilities = np.exp(row - row[top])
        probabilities /= probabilities.sum()
    first = float(probabilities[top])
    entropy = -float(np.dot(probabilities, np.log(probabilities + 1e-30)))
    probabilities[top] = -1.0
    second = float(probabilities.max())
    confidence = float(np.log((first + _SURE) / (1.0 - first + _SURE)))
    return confidence, entropy, first - second, top
