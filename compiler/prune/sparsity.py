"""2:4 sparsity without retraining: of every four weights along the input channels two become zero.

That is the pattern which the tensor cores of NVIDIA's Ampere and newer skip (Mishra et al.,
Accelerating sparse deep neural networks, 2021). Which two go is chosen by Optimal Brain Surgeon
on the calibration Hessian, four columns at a time, and the columns behind them adapt (Frantar and
Alistarh, SparseGPT, 2023, section 3.3); the weights that are left are then solved anew by least
squares against the float model's outputs, on the inputs that the sparse model really has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper

from compiler.calibrate.ranges import Samples
from compiler.graph.floatgraph import FloatGraph
from compiler.progress import Progress, silent
from compiler.prune.dense import Array, list_dense
from compiler.prune.moments import Moments, collect_moments, run_shapes
from compiler.prune.rank import ridge
from compiler.prune.remove import own_weights
from compiler.prune.targets import find_target

GROUP = 4
ZEROS = 2
SHRINK = 1e-2
"""Of each column's own second moment; keeps few samples from being fitted by heart."""

ROUNDS = 40
"""Of conjugate gradients; the damping keeps the condition low, so these are plenty."""

Mask = npt.NDArray[np.bool_]


def sparsify(
    graph: FloatGraph, samples: Samples, *, seed: int = 0, progress: Progress = silent
) -> tuple[FloatGraph, tuple[str, ...]]:
    """Make every dense layer 2:4 sparse whose input channels come in fours; nothing is retrained.

    Depthwise and grouped convolutions have no such layers' weights and stay as they are.

    Args:
        graph: the float graph; it is not changed.
        samples: calibration; run through once a layer.
        seed: draws the positions of feature maps that are looked at.

    Returns:
        The graph, and the names of the nodes that became sparse, in the order of execution;
        ``graph`` itself where there is none.

    Raises:
        DatasetError: no samples.
        SourceError: the runtime fails on the model.
    """
    base = own_weights(graph.prepared)
    layers = {n: d for n, d in list_dense(base.graph).items() if d.inputs % GROUP == 0}
    if not layers:
        return graph, ()
    shapes = run_shapes(base, samples)
    model = ModelProto()
    model.CopyFrom(base)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in layers.values():
        progress(f"2:4 zeros in {graph.names.get(layer.name, layer.name)}")
        target = {layer: find_target(base.graph, layer, shapes)}
        sums = collect_moments(model, base, target, samples, seed)[layer.name]
        before = layer.matrix(numpy_helper.to_array(tensors[layer.weight]))
        matrix = solve_sparse(
            sums.centred() if layer.bias else sums, before, columns_of(layer.inputs, layer.taps)
        )
        changed = {layer.weight: layer.weights(matrix)}
        if layer.bias is not None:
            bias = (sums.t - sums.x @ matrix) / sums.n
            changed[layer.bias] = bias.astype(np.float32)
        for name, values in changed.items():
            tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    return replace(graph, model=model, prepared=model), tuple(layers)


def is_sparse(values: npt.NDArray[np.generic], axis: int) -> bool:
    """Whether of every four neighbours along ``axis`` at most two are not zero."""
    if values.shape[axis] % GROUP:
        return False
    fours = np.moveaxis(values, axis, -1).reshape(-1, GROUP)
    return bool((np.count_nonzero(fours, axis=1) <= GROUP - ZEROS).all())


def columns_of(inputs: int, taps: int) -> npt.NDArray[np.int64]:
    """Rows of a layer's matrix in fours: the same tap of four input channels in a row."""
    index = np.arange(inputs * taps).reshape(inputs // GROUP, GROUP, taps)
    return np.asarray(index.transpose(0, 2, 1).reshape(-1), np.int64)


def solve_sparse(moments: Moments, matrix: Array, columns: npt.NDArray[np.int64]) -> Array:
    """The 2:4 sparse matrix ``[D, O]`` nearest the targets in the calibration Hessian.

    Args:
        moments: of the layer, about the means where its bias is free.
        matrix: float64 ``[D, O]``, the weights before; the ridge pulls towards them.
        columns: ``columns_of`` the layer.
    """
    extra = ridge(moments, SHRINK)
    hessian: Array = np.asarray(moments.xx + np.diag(extra), np.float64)
    right = moments.xt + extra[:, None] * matrix
    dense: Array = np.asarray(np.linalg.solve(hessian, right), np.float64)
    mask, start = choose_zeros(hessian, dense, columns)
    return fit_masked(hessian, right, start, mask)


def choose_zeros(
    hessian: Array, matrix: Array, columns: Sequence[int] | npt.NDArray[np.int64]
) -> tuple[Mask, Array]:
    """Which weights stay (bool ``[D, O]``), and the matrix once the others have adapted."""
    order = np.asarray(columns)
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left = matrix[order]
    keep = np.ones(left.shape, bool)
    for first in range(0, len(order), GROUP):
        block = slice(first, first + GROUP)
        costs: Array = np.square(left[block] / np.diag(upper)[block, None])
        # Stable: of equal costs the earlier channel goes, on every machine.
        gone = np.argsort(costs, axis=0, kind="stable")[:ZEROS]
        np.put_along_axis(keep[block], gone, False, axis=0)
        for row in range(first, first + GROUP):
            error = np.where(keep[row], 0.0, left[row]) / upper[row, row]
            left[row] = np.where(keep[row], left[row], 0.0)
            left[row + 1 :] -= np.outer(upper[row, row + 1 :], error)
    mask, start = np.empty_like(keep), np.empty_like(left)
    mask[order], start[order] = keep, left
    return mask, start


def fit_masked(hessian: Array, right: Array, start: Array, mask: Mask) -> Array:
    """Minimise each output's squared error over the weights in ``mask``; others stay zero.

    Conjugate gradients for all outputs at once, preconditioned with the diagonal.
    """
    scale = 1 / np.diag(hessian)[:, None]
    found = np.where(mask, start, 0.0)
    residual = np.where(mask, right - hessian @ found, 0.0)
    towards = scale * residual
    direction = towards.copy()
    power = (residual * towards).sum(0)
    for _ in range(ROUNDS):
        ahead = np.where(mask, hessian @ direction, 0.0)
        curve = (direction * ahead).sum(0)
        length = np.where(curve > 0, power / np.where(curve > 0, curve, 1.0), 0.0)
        found += length * direction
        residual -= length * ahead
        towards = scale * residual
        after = (residual * towards).sum(0)
        direction = (
            towards + np.where(power > 0, after / np.where(power > 0, power, 1), 0) * direction
        )
        power = after
    return np.where(mask, found, 0.0)
