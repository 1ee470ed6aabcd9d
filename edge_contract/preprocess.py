"""The preprocessing contract: how a raw frame becomes the model's input.

It travels in the bundle and is executed by ``edge_runtime.preprocess`` at compile time and on
the device alike, so training and serving cannot come apart unnoticed.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from edge_contract.errors import ContractError


class PreprocessSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raw frame -> float32 model input.

    ``kind = "tensor"``: the frame is already the model's input up to ``x * scale``, then
    ``(x - mean) / std`` along the last axis; layout, colour and size are not used.

    ``kind = "image"``: the raw frame is uint8, ``layout`` HWC (``NHWC``) or CHW (``NCHW``),
    channels in the order of ``colour``. It is resized to ``height_px`` x ``width_px``, scaled,
    normalised per channel and laid out as ``model_layout``.
    """

    kind: Literal["image", "tensor"] = "tensor"
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    colour: Literal["RGB", "BGR", "GRAY"] = "RGB"
    height_px: int = 0
    width_px: int = 0
    resize: Literal["linear", "area", "none"] = "none"
    model_layout: Literal["NHWC", "NCHW"] = "NHWC"
    scale: float = 1.0
    mean: list[float] = []
    std: list[float] = []

    def __post_init__(self) -> None:
        numbers = [self.scale, *self.mean, *self.std]
        if not all(math.isfinite(n) for n in numbers):
            raise ContractError("preprocess: scale, mean and std must be finite numbers")
        if self.scale == 0 or any(s <= 0 for s in self.std):
            raise ContractError("preprocess: scale must not be 0 and every std must be positive")
        if len(self.mean) != len(self.std):
            raise ContractError(
                f"preprocess: {len(self.mean)} means but {len(self.std)} stds; give one of each"
                " per channel, or neither"
            )
        if self.kind == "image":
            if self.height_px <= 0 or self.width_px <= 0:
                raise ContractError(
                    f"preprocess: an image needs height_px and width_px above 0, got"
                    f" {self.height_px} x {self.width_px}"
                )
            if len(self.mean) not in (0, self.channels):
                raise ContractError(
                    f"preprocess: {len(self.mean)} means for {self.channels} channels"
                    f" ({self.colour})"
                )

    @property
    def channels(self) -> int:
        """Channels of the raw image: 1 for GRAY, else 3."""
        return 1 if self.colour == "GRAY" else 3
