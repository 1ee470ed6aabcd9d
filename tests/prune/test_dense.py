"""A dense layer as a matrix product gives what the runtime gives; targets know their bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from compiler.prune.dense import list_dense
from compiler.prune.moments import run_shapes, run_to
from compiler.prune.prune import prune_model
from compiler.prune.remove import own_weights
from compiler.prune.sparsity import sparsify
from compiler.prune.targets import Target, find_target
from tests.prune.graphs import Net, answer, stream

CONVOLUTIONS = {
    "plain": {},
    "strided": {"strides": [2, 3], "pads": [0, 1, 2, 1]},
    "dilated": {"dilations": [2, 1], "pads": [1, 0, 0, 2]},
    "same_upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same_lower": {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
}


@pytest.mark.parametrize("attributes", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_rows_times_matrix_is_what_the_runtime_computes(
    attributes: dict[str, object], tmp_path: Path
) -> None:
    net = Net()
    weight, bias = net.constant(net.normal(5, 3, 3, 2)), net.constant(net.normal(5))
    conv = net.op("Conv", "x", weight, bias, width=5, **attributes)
    model = own_weights(net.graph(net.head(conv), tmp_path).prepared)
    layers = list_dense(model.graph)
    assert [layer.node.op_type for layer in layers.values()] == ["Conv", "Gemm"]
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for layer in layers.values():
        (x, y), limit = run_to(model, [layer.x, layer.y])(next(stream(1)())), 7
        picked = layer.pick(y.shape, limit, np.random.default_rng(0))
        matrix = layer.matrix(weights[layer.weight])
        made = layer.inputs_at(x, y.shape, picked) @ matrix + weights[layer.bias or ""]
        assert len(made) <= limit
        np.testing.assert_allclose(made, layer.outputs_at(y, picked), atol=1e-4)
        np.testing.assert_array_equal(layer.weights(matrix), weights[layer.weight])


def test_behind_a_residual_sum_and_a_relu_the_sum_is_what_counts(tmp_path: Path) -> None:
    net = Net()
    stem = net.relu(net.conv("x", 4))
    joined = net.relu(net.op("Add", net.conv(stem, 4), stem))
    model = net.graph(net.head(joined), tmp_path).prepared
    layers, shapes = list(list_dense(model.graph).values()), run_shapes(model, stream(1))
    first, second, last = (find_target(model.graph, layer, shapes) for layer in layers)
    assert (first.other, first.low) == (None, 0.0)
    assert second.other == layers[1].x
    assert (second.low, second.high) == (0.0, np.inf)
    assert not last.is_bounded


@pytest.mark.parametrize("kind", ["dense", "depthwise"])
def test_an_output_that_a_sum_repeats_over_a_map_is_compared_by_itself(
    kind: str, tmp_path: Path
) -> None:
    net = Net()
    pooled = net.op("GlobalAveragePool", net.conv(net.relu(net.conv("x", 16)), 8))
    context = net.conv(pooled, 8, 1) if kind == "dense" else net.depthwise(pooled)
    joined = net.relu(net.op("Add", context, net.conv("x", 8)))
    graph = net.graph(net.head(joined), tmp_path)
    pruned = prune_model(graph, stream(), keep=0.5)
    assert pruned.pruned
    assert answer(pruned.graph.prepared).shape == answer(graph.prepared).shape
    sparse, layers = sparsify(graph, stream())
    assert layers
    assert np.isfinite(answer(sparse.prepared)).all()


def test_values_beyond_the_same_bound_are_no_error() -> None:
    target = Target("y", None, 0.0, 6.0)
    wanted = np.array([-2.0, -2.0, 3.0, 9.0, 9.0])
    given = np.array([-1.0, 1.0, -5.0, 7.0, 2.0])
    assert target.ease(wanted, given).tolist() == [-1.0, 0.0, 3.0, 7.0, 6.0]
