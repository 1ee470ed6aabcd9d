"""The quantisation plan: every number that an int8 file holds, and no file format.

A plan belongs to one float graph (``Plan.model``) and names its tensors and nodes. Emitters turn
graph and plan into a file; they round nothing and choose nothing, so two formats of one plan
compute the same integers.

The arithmetic is that of TFLite and of ONNX alike (B. Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018):
``real = (q - zero_point) * scale``, weights symmetric per output channel, activations one grid a
tensor, biases int32 with scale ``input scale * weight scale`` and zero point 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

Activations = Literal["asymmetric", "symmetric"]
"""``asymmetric``: zero points anywhere in -128..127 (ARM, x86-64, TFLite). ``symmetric``: all of
them 0, a grid's values -127..127 (TensorRT)."""

QMIN, QMAX = -128, 127
"""Limits of int8. Weights use -127..127 only, so that a weight and its negative weigh the same."""


@dataclass(frozen=True)
class Grid:
    """The 256 values that one activation tensor can take: ``(q - zero_point) * scale``.

    scale: exactly representable in float32, above 0.
    zero_point: -128..127, the int8 that means 0.0 (a uint8 emitter adds 128 to it and to ``q``).
    """

    scale: float
    zero_point: int

    @property
    def low(self) -> float:
        """The least value on the grid; anything below saturates to it."""
        return (QMIN - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """The greatest value on the grid."""
        return (QMAX - self.zero_point) * self.scale


@dataclass(frozen=True)
class Weight:
    """The int8 weight of one layer.

    values: int8, -127..127, with the shape and layout of the initializer in ``Plan.model``
        (Conv ``[out, in / group, *kernel]``, Gemm and MatMul as they stand there).
    scales: float32 ``[values.shape[axis]]``; zero points are 0.
    axis: the output-channel axis of ``values``.
    """

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    axis: int

    def dequantised(self) -> npt.NDArray[np.float32]:
        """The float32 weight that the int8 kernel really multiplies by."""
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        return np.asarray(self.values * self.scales.reshape(shape), np.float32)


@dataclass(frozen=True)
class LayerPlan:
    """One Conv, Gemm or MatMul that runs in int8.

    node: its name in ``Plan.model``.
    op: its operator there.
    inputs: its activation inputs, all in ``Plan.grids``: one, or two for a MatMul of activations.
    output: the tensor whose grid it writes: its own output, or that of the Relu or Clip behind it
        which saturation performs (``absorbed``).
    weight: ``None`` for a MatMul of two activations.
    bias: int32 ``[out]`` with scale ``input scale * weight.scales`` and zero point 0, or ``None``.
    bias_float: float32 ``[out]``, the same before rounding, for runtimes that want it in float.
    absorbed: the Relu or Clip nodes between the layer and ``output``, in order. Only asymmetric
        plans absorb: there ``output``'s grid ends where the activation cuts, so saturation does
        its work and an emitter may leave the node out or mark it as fused.
    """

    node: str
    op: Literal["Conv", "Gemm", "MatMul"]
    inputs: tuple[str, ...]
    output: str
    weight: Weight | None
    bias: npt.NDArray[np.int32] | None = None
    bias_float: npt.NDArray[np.float32] | None = None
    absorbed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything decided about one model in int8.

    model: the float graph that the plan is about: that of ``FloatGraph.prepared``, after channel
        equalisation and with corrected biases. Running it in float gives the source's function,
        but for the bias correction. One input, one output, opset 13 or newer, NCHW as ONNX has it.
    activations: where zero points may lie.
    grids: tensor name -> its grid. A tensor that is not here stays float32.
    layers: node name -> the multiplication that runs in int8, in the order of execution.
    passing: names of other nodes that run in int8 because all their tensors have grids (Add,
        pooling, Concat, Reshape, ...). Operators that only move values (Reshape, Flatten,
        Transpose, Squeeze, Unsqueeze, Identity, MaxPool) have one grid for input and output;
        the others, Concat and AveragePool included, have grids of their own on either side.
    absorbed: Relu and Clip nodes that saturation performs, those behind layers and those behind
        passing nodes (a residual Add) alike.
    left_float: names of Conv, Gemm and MatMul that stay float on purpose.
    """

    model: ModelProto
    activations: Activations
    grids: Mapping[str, Grid]
    layers: Mapping[str, LayerPlan]
    passing: frozenset[str] = frozenset()
    absorbed: frozenset[str] = frozenset()
    left_float: frozenset[str] = field(default_factory=frozenset)

    def weights(self) -> dict[str, Weight]:
        """The int8 weights by node, of the layers that have one."""
        return {n: layer.weight for n, layer in self.layers.items() if layer.weight is not None}

    def digest(self) -> str:
        """SHA-256 over graph and every decision: equal digests, equal plans."""
        found = hashlib.sha256(self.model.SerializeToString(deterministic=True))
        found.update(self.activations.encode())
        for name in sorted(self.grids):
            grid = self.grids[name]
            found.update(f"{name}:{np.float32(grid.scale).tobytes().hex()}:".encode())
            found.update(f"{grid.zero_point};".encode())
        for node, layer in self.layers.items():
            found.update(f"{node}:{layer.op}:{layer.inputs}:{layer.output}".encode())
            found.update(f"{layer.absorbed}".encode())
            if layer.weight is not None:
                found.update(f"{layer.weight.axis}{layer.weight.values.shape}".encode())
                found.update(layer.weight.values.tobytes() + layer.weight.scales.tobytes())
            for bias in (layer.bias, layer.bias_float):
                found.update(b"-" if bias is None else bias.tobytes())
        for names in (self.passing, self.absorbed, self.left_float):
            found.update(f"{sorted(names)}".encode())
        return found.hexdigest()


def span_of(grid: Grid, activations: Activations) -> tuple[float, float]:
    """The bounds of which ``grid_of`` makes this very grid."""
    if activations == "symmetric":
        return -QMAX * grid.scale, QMAX * grid.scale
    return grid.low, grid.high


def grid_of(low: float, high: float, activations: Activations) -> Grid:
    """The grid that covers ``low..high``; 0 is always on it, and in a range of its own.

    Formulas: Jacob et al., section 3, on 256 values; symmetric ``max(|low|, |high|) / 127``.

    Raises:
        ValueError: a bound is NaN or infinite, or ``low`` is above ``high``.
    """
    if not (np.isfinite(low) and np.isfinite(high)) or low > high:
        raise ValueError(f"no grid covers {low} to {high}")
    low, high = min(low, 0.0), max(high, 0.0)
    if activations == "symmetric":
        scale = _scale(max(-low, high) / QMAX)
        return Grid(scale, 0)
    scale = _scale((high - low) / (QMAX - QMIN))
    return Grid(scale, int(np.clip(round(QMIN - low / scale), QMIN, QMAX)))


def _scale(value: float) -> float:
    """In float32, and never so small that its products leave the normal numbers."""
    return float(np.float32(value)) if value > 1e-12 else 1.0
