"""Execute a preprocessing contract. Compiler and agent run this very code.

OpenCV is needed only where a frame has to be resized; everything else is numpy, so an agent
without the vision extra still serves sensors and frames of the right size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_contract.preprocess import PreprocessSpec
from edge_runtime.errors import InputRefusedError, ModelRuntimeError

FloatArray = npt.NDArray[np.float32]


class Preprocessor:
    """Turns raw frames into model inputs.

    Args:
        spec: the contract from the bundle.
        input_shape: the model's input without the batch axis, ``None`` for a free axis.
    """

    def __init__(self, spec: PreprocessSpec, input_shape: tuple[int | None, ...]) -> None:
        self.spec = spec
        self.input_shape = input_shape
        self._free = None in input_shape
        self._scale = np.float32(spec.scale)
        self._mean = np.asarray(spec.mean, dtype=np.float32)
        self._std = np.asarray(spec.std, dtype=np.float32)
        self._image = spec.kind == "image"
        self._planes = self._image and spec.model_layout == "NCHW"
        if self._planes:
            self._mean = self._mean.reshape(-1, 1, 1)
            self._std = self._std.reshape(-1, 1, 1)
        # A pixel has 256 values: whether any of them leaves the finite numbers is known beforehand.
        self._always_finite = self._image and self._pixels_stay_finite()

    def __call__(self, frame: npt.NDArray[np.generic]) -> FloatArray:
        """One raw frame (no batch axis) -> float32 ``[1, ...]`` for the model.

        Raises:
            InputRefusedError: wrong shape or dtype, or NaN or infinity in it.
        """
        values: npt.NDArray[np.generic] = self.sized(frame) if self._image else _numbers(frame)
        if self._planes:
            # Reordered as bytes: a quarter of what the same pixels weigh as floats.
            values = np.ascontiguousarray(values.transpose(2, 0, 1))
        batch = values[None].astype(np.float32, order="C")
        self._check_shape(batch.shape[1:], frame.shape)
        self._normalise(batch)
        if not self._always_finite and not np.isfinite(batch).all():
            raise InputRefusedError("frame holds NaN or infinite values")
        return batch

    def batch(self, frames: npt.NDArray[np.generic]) -> FloatArray:
        """Raw frames ``[n, ...]`` -> float32 ``[n, ...]``.

        Raises:
            InputRefusedError: as for one frame; names the row.
        """
        rows = []
        for row, frame in enumerate(frames):
            try:
                rows.append(self(frame)[0])
            except InputRefusedError as error:
                raise InputRefusedError(f"row {row}: {error.message}") from error
        return np.stack(rows)

    def sized(self, frame: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The first step for images: one raw frame -> uint8 ``[height_px, width_px, channels]``.

        Raises:
            InputRefusedError: wrong shape or dtype, or another size and ``resize = 'none'``.
        """
        spec = self.spec
        if frame.dtype != np.uint8:
            raise InputRefusedError(f"expected uint8 pixels, got {frame.dtype}")
        if frame.ndim == 2 and spec.channels == 1:
            frame = frame[:, :, None]
        elif frame.ndim == 3 and spec.layout == "NCHW":
            frame = frame.transpose(1, 2, 0)
        if frame.ndim != 3 or frame.shape[2] != spec.channels or not frame.size:
            raise InputRefusedError(
                f"expected an image of {spec.channels} channels ({spec.colour}, {spec.layout}),"
                f" got shape {frame.shape}"
            )
        if frame.shape[:2] != (spec.height_px, spec.width_px):
            frame = self._resize(frame)
        return frame

    def _resize(self, frame: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        spec = self.spec
        if spec.resize == "none":
            raise InputRefusedError(
                f"expected {spec.height_px} x {spec.width_px} pixels, got"
                f" {frame.shape[0]} x {frame.shape[1]}, and the contract says resize = 'none'"
            )
        try:
            import cv2
        except ImportError as error:
            raise ModelRuntimeError(
                f"frames of {frame.shape[0]} x {frame.shape[1]} must be resized to"
                f" {spec.height_px} x {spec.width_px}, which needs OpenCV",
                hint="pip install 'wherry[vision]'",
            ) from error
        # INTER_LINEAR_EXACT is bit-exact on every CPU; plain INTER_LINEAR is not.
        how = cv2.INTER_LINEAR_EXACT if spec.resize == "linear" else cv2.INTER_AREA
        sized = cv2.resize(
            np.ascontiguousarray(frame), (spec.width_px, spec.height_px), interpolation=how
        )
        return sized[:, :, None] if sized.ndim == 2 else sized

    def _normalise(self, batch: FloatArray) -> None:
        """``(batch * scale - mean) / std``, in place."""
        batch *= self._scale
        if self._mean.size:
            batch -= self._mean
            batch /= self._std

    def _pixels_stay_finite(self) -> bool:
        channels = max(self._mean.size, 1)
        shape = (256, channels, 1, 1) if self._planes else (256, 1, 1, channels)
        pixels = np.broadcast_to(np.arange(256).reshape(256, 1, 1, 1), shape).astype(np.float32)
        with np.errstate(all="ignore"):
            self._normalise(pixels)
        return bool(np.isfinite(pixels).all())

    def _check_shape(self, got: tuple[int, ...], raw: tuple[int, ...]) -> None:
        want = self.input_shape
        if got == want:
            return
        if (
            not self._free
            or len(got) != len(want)
            or any(w not in (None, g) for w, g in zip(want, got, strict=True))
        ):
            raise InputRefusedError(
                f"expected a model input of shape {list(want)}, got {list(got)}"
                f" from a frame of shape {list(raw)}"
            )


def _numbers(frame: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if frame.dtype.kind not in "fiu":
        raise InputRefusedError(f"expected numbers, got dtype {frame.dtype}")
    return frame
