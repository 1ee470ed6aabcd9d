"""What happens to real cameras: the light goes, the lens fogs, the sensor gets noisy."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Kind = Literal["dark", "blur", "noise"]
KINDS: tuple[Kind, ...] = ("dark", "blur", "noise")

_EXPOSURE = (0.7, 0.45, 0.25, 0.15, 0.08)
_BLUR_SIGMA_PX = (0.8, 1.4, 2.2, 3.2, 4.5)
_NOISE_SIGMA = (8.0, 16.0, 28.0, 42.0, 60.0)


def apply_corruption(
    frame: NDArray[np.uint8], kind: Kind, severity: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One corrupted frame.

    Args:
        frame: uint8 ``[h, w, 1]``.
        kind: ``dark`` scales the exposure and leaves the sensor's noise; ``blur`` is a Gaussian
            defocus; ``noise`` is additive.
        severity: 1 (mild) to 5 (severe).
        rng: where noise comes from.

    Raises:
        ValueError: no such kind or severity.
    """
    if kind not in KINDS or not 1 <= severity <= 5:
        raise ValueError(f"expected one of {KINDS} and a severity of 1 to 5: {kind} {severity}")
    level = severity - 1
    values = frame[:, :, 0].astype(np.float32)
    if kind == "dark":
        values = values * _EXPOSURE[level] + rng.normal(0, 3.0, values.shape)
    elif kind == "blur":
        values = cv2.GaussianBlur(values, (0, 0), _BLUR_SIGMA_PX[level])
    else:
        values = values + rng.normal(0, _NOISE_SIGMA[level], values.shape)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)[:, :, None]
