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
        self._mean = np.asarray(spec.mean, dtype=np.float32)
        self._std = np.asarray(spec.std, dtype=np.float32)

    def __call__(self, frame: npt.NDArray[np.generic]) -> FloatArray:
        """One raw frame (no batch axis) -> float32 ``[1, ...]`` for the model.

        Raises:
            InputRefusedError: wrong shape or dtype, or NaN or infinity in it.
        """
        image = self.spec.kind == "image"
        values = _as_float(self.sized(frame) if image else frame)
        values = values * np.float32(self.spec.scale)
        if self._mean.size:
            values = (values - self._mean) / self._std
        if image and self.spec.model_layout == "NCHW":
            values = values.transpose(2, 0, 1)
        batch = np.ascontiguousarray(values[None], dtype=np.float32)
        self._check_shape(batch.shape[1:], frame.shape)
        if not np.isfinite(batch).all():
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

    def _check_shape(self, got: tuple[int, ...], raw: tuple[int, ...]) -> None:
        want = self.input_shape
        if len(got) != len(want) or any(w not in (None, g) for w, g in zip(want, got, strict=True)):
            raise InputRefusedError(
                f"expected a model input of shape {list(want)}, got {list(got)}"
                f" from a frame of shape {list(raw)}"
            )


def _as_float(frame: npt.NDArray[np.generic]) -> FloatArray:
    if frame.dtype.kind not in "fiu":
        raise InputRefusedError(f"expected numbers, got dtype {frame.dtype}")
    return frame.astype(np.float32)
