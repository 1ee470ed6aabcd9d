"""What is said of a model file: plain records, whatever the file's format."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt


class TensorFacts(msgspec.Struct, frozen=True):
    """One input or output; an axis is its size, its name, or ``None`` where neither is known."""

    name: str
    dtype: str
    shape: list[int | str | None]


class LayerFacts(msgspec.Struct, frozen=True):
    """One layer that multiplies.

    weight: dtype and shape of the constant it multiplies by, as stored; empty where there is none.
    macs: multiply-accumulates for one frame, ``None`` where a shape is not known.
    """

    name: str
    op: str
    weight_dtype: str
    weight_shape: list[int]
    macs: int | None


class ModelFacts(msgspec.Struct, frozen=True):
    """A model file; a float .tflite file as the ONNX that it is compiled as.

    digest, size_bytes: of the file with its external data files, as ``source`` counts.
    stored_bytes: bytes of constants, by dtype.
    macs: of all layers for one frame, ``None`` where one of them is not known.
    not_counted: what else multiplies, such as a Loop around layers; ``macs`` holds none of it.
    """

    digest: str
    size_bytes: int
    opset: int
    producer: str
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
    ops: dict[str, int]
    parameters_count: int
    stored_bytes: dict[str, int]
    macs: int | None
    layers: list[LayerFacts]
    not_counted: list[str]


class Weight(msgspec.Struct, frozen=True):
    """A layer's constant as it is stored, and its scales where it is quantised."""

    values: npt.NDArray[np.generic]
    scales: npt.NDArray[np.generic] | None
