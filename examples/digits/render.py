"""Renders scanned 8x8 digits as the frames of a small greyscale camera.

Dark ink on lit paper: every frame has its own position, size, rotation, ink, exposure, slope of
light and sensor noise. A frame is a function of (seed, source, render) alone, so neither the order
nor the number of the frames asked for changes any of them. Only numpy is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FRAME_PX = 32
SCAN_PX = 8
SCAN_MAX = 16
"""Ink of the darkest scanned pixel: UCI counted the black dots of 4x4 blocks."""

_FINE_PX = 64
"""Side of the upsampled scan from which frames are sampled."""
_GLYPH_PX = 23.0
"""Side of the unscaled 8x8 box in a frame."""
_SHIFT_PX = 3.0
_ROTATION_DEG = 10.0
_SCALE = (0.9, 1.1)
_PAPER = (165.0, 225.0)
_INK = (30.0, 80.0)
_SHADING = 15.0
"""Largest change of the light from the centre of a frame to its edge, in grey levels."""
_READ_NOISE = 3.0
_SHOT_NOISE_GAIN = 0.08
"""Noise variance = read^2 + gain * signal, the usual model of a CMOS sensor, in grey levels."""
_CHUNK = 256

_SPLIT_OF_RANK = (
    *("test",) * 7,
    *("train",) * 6,
    *("calibration",) * 3,
    *("selection",) * 2,
)
"""Sources, sorted by class and shuffled within it, are dealt in rounds of 18. So every split has
the same mix of classes, and no source is in two of them."""
_SPLIT_SEED = 20_250_101

SPLITS = ("train", "calibration", "selection", "test")


@dataclass(frozen=True)
class Digits:
    """The source scans: ``images`` uint8 [1797, 8, 8] in 0..16, ``labels`` int64 [1797] in 0..9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@cache
def load_digits() -> Digits:
    """Reads ``digits.npz`` beside this file, once a process."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as archive:
        return Digits(archive["images"], archive["labels"].astype(np.int64))


@cache
def _splits() -> dict[str, NDArray[np.int64]]:
    labels = load_digits().labels
    shuffled = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    names = np.array(_SPLIT_OF_RANK)[np.arange(len(labels)) % len(_SPLIT_OF_RANK)]
    return {name: np.sort(by_class[names == name]).astype(np.int64) for name in SPLITS}


def sources_of(split: str) -> NDArray[np.int64]:
    """The source ids of a split, ascending; splits share none.

    Raises:
        ValueError: ``split`` is not one of ``SPLITS``.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    return _splits()[split].copy()


def render_frames(
    source_ids: NDArray[np.int64],
    *,
    seed: int,
    render_ids: NDArray[np.int64] | None = None,
) -> NDArray[np.uint8]:
    """Renders one frame a row.

    Args:
        source_ids: int [N], rows of ``load_digits()``.
        seed: which world; not negative.
        render_ids: int [N], which of a source's renders in that world; zeros when left out.

    Returns:
        uint8 [N, 32, 32, 1], greyscale.

    Raises:
        ValueError: an id is outside the source digits, or the two arrays differ in length.
    """
    images = load_digits().images
    if source_ids.size and not (source_ids.min() >= 0 and source_ids.max() < len(images)):
        raise ValueError(
            f"source ids must lie in 0..{len(images) - 1}; "
            f"got {source_ids.min()}..{source_ids.max()}"
        )
    if render_ids is None:
        render_ids = np.zeros_like(source_ids)
    if render_ids.shape != source_ids.shape:
        raise ValueError(
            f"render_ids must have the shape of source_ids {source_ids.shape}; "
            f"got {render_ids.shape}"
        )
    frames = np.empty((len(source_ids), FRAME_PX, FRAME_PX, 1), np.uint8)
    for start in range(0, len(source_ids), _CHUNK):
        rows = slice(start, start + _CHUNK)
        frames[rows, :, :, 0] = _render_chunk(
            images[source_ids[rows]], source_ids[rows], render_ids[rows], seed
        )
    return frames


def _render_chunk(
    scans: NDArray[np.uint8],
    source_ids: NDArray[np.int64],
    render_ids: NDArray[np.int64],
    seed: int,
) -> NDArray[np.uint8]:
    count = len(scans)
    draws = np.empty((count, 9))
    noise = np.empty((count, FRAME_PX, FRAME_PX), np.float32)
    for row, (source, render) in enumerate(zip(source_ids, render_ids, strict=True)):
        rng = np.random.default_rng([seed, int(source), int(render)])
        draws[row] = rng.random(draws.shape[1])
        rng.standard_normal(dtype=np.float32, out=noise[row])
    dx, dy, turn, size, paper, ink, slope_x, slope_y, sharpness = draws.T[:, :, None, None]

    centred = np.arange(FRAME_PX) - (FRAME_PX - 1) / 2
    x = centred[None, None, :] - _between(dx, -_SHIFT_PX, _SHIFT_PX)
    y = centred[None, :, None] - _between(dy, -_SHIFT_PX, _SHIFT_PX)
    angle = np.radians(_between(turn, -_ROTATION_DEG, _ROTATION_DEG))
    fine_px_per_px = _FINE_PX / (_GLYPH_PX * _between(size, *_SCALE))
    centre = (_FINE_PX - 1) / 2
    u = (np.cos(angle) * x + np.sin(angle) * y) * fine_px_per_px + centre
    v = (np.cos(angle) * y - np.sin(angle) * x) * fine_px_per_px + centre

    coverage = _sample(_upsample(scans), u, v)
    # A steeper edge is a better focused one; 0.5 coverage stays where it is.
    coverage = np.clip((coverage - 0.5) * _between(sharpness, 1.0, 1.8) + 0.5, 0.0, 1.0)
    half = FRAME_PX / 2
    light = (
        _SHADING
        / half
        * (
            _between(slope_x, -1.0, 1.0) * centred[None, None, :]
            + _between(slope_y, -1.0, 1.0) * centred[None, :, None]
        )
    )
    paper_level = _between(paper, *_PAPER)
    signal = paper_level + (_between(ink, *_INK) - paper_level) * coverage + light
    sigma = np.sqrt(_READ_NOISE**2 + _SHOT_NOISE_GAIN * np.maximum(signal, 0.0))
    return np.clip(np.rint(signal + sigma * noise), 0, 255).astype(np.uint8)


def _between(draw: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return low + (high - low) * draw


@cache
def _upsampling_matrix() -> NDArray[np.float64]:
    """[64, 8] weights of Catmull-Rom interpolation (Keys 1981, a = -0.5), edges repeated."""
    weights = np.zeros((_FINE_PX, SCAN_PX))
    for fine in range(_FINE_PX):
        at = (fine + 0.5) * SCAN_PX / _FINE_PX - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            d = abs(at - tap)
            near = 1.5 * d**3 - 2.5 * d**2 + 1
            far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
            weights[fine, min(max(tap, 0), SCAN_PX - 1)] += near if d <= 1 else far
    return weights


def _upsample(scans: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Scans [N, 8, 8] to ink coverage [N, 66, 66] in 0..1, with a blank rim of one pixel."""
    weights = _upsampling_matrix()
    fine = weights @ (scans / SCAN_MAX) @ weights.T
    return np.pad(np.clip(fine, 0.0, 1.0), ((0, 0), (1, 1), (1, 1)))


def _sample(
    fine: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bilinear samples of ``fine`` (with its rim) at columns ``u``, rows ``v``; blank outside."""
    last = fine.shape[1] - 1
    u = np.clip(u + 1, 0, last - 1e-9)
    v = np.clip(v + 1, 0, last - 1e-9)
    column, row = u.astype(np.int64), v.astype(np.int64)
    fu, fv = u - column, v - row
    frame = np.arange(len(fine))[:, None, None]
    top = fine[frame, row, column] * (1 - fu) + fine[frame, row, column + 1] * fu
    bottom = fine[frame, row + 1, column] * (1 - fu) + fine[frame, row + 1, column + 1] * fu
    return np.asarray(top * (1 - fv) + bottom * fv)
