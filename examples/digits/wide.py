"""The digits network at width 32 and two fine-tuned versions of it, from ``wide.npz``.

``train.py --width 32 --seed 3`` (20 epochs) made the first; ``fine_tune.py`` the others: all layers
a little, and the classifier alone, for a darker scene. Kept as float16 weights and float16
differences, a third of their size as ONNX. ``benchmarks/delta.py`` measures deltas between them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

HERE = Path(__file__).parent
DATA = HERE / "wide.npz"
TUNED = ("tuned", "last")


def wide_models() -> dict[str, onnx.ModelProto]:
    """``base``, ``tuned`` (all layers) and ``last`` (the classifier), float32, opset 17."""
    with np.load(DATA) as data:
        base = {n[5:]: data[n].astype(np.float32) for n in data.files if n.startswith("base.")}
        found = {"base": base}
        for name in TUNED:
            found[name] = {
                key: value + data[f"{name}.{key}"] if f"{name}.{key}" in data.files else value
                for key, value in base.items()
            }
    return {name: _model(weights) for name, weights in found.items()}


def _model(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    model = onnx.load(HERE / "digits_float.onnx")
    for item in model.graph.initializer:
        item.CopyFrom(numpy_helper.from_array(weights[item.name].astype(np.float32), item.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "group" and attribute.i > 1:
                attribute.i = weights[node.input[1]].shape[0]  # depthwise
    onnx.checker.check_model(model, full_check=True)
    return model


def pack(base: Path, tuned: Path, last: Path) -> None:
    """Write ``wide.npz`` from the three ONNX files."""
    first = _weights(base)
    arrays = {f"base.{name}": value.astype(np.float16) for name, value in first.items()}
    for kind, path in (("tuned", tuned), ("last", last)):
        for name, value in _weights(path).items():
            step = (value - first[name]).astype(np.float16)
            if step.any():
                arrays[f"{kind}.{name}"] = step
    np.savez_compressed(DATA, **arrays)


def _weights(path: Path) -> dict[str, np.ndarray]:
    model = onnx.load(path)
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pack three ONNX files into wide.npz.")
    for name in ("base", "tuned", "last"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    pack(given.base, given.tuned, given.last)
