"""Grouped convolutions, depthwise ones among them: as matrices, and refitted behind pruning."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compiler.prune import prune
from compiler.prune.dense import Array
from compiler.prune.grouped import list_grouped
from compiler.prune.moments import Moments, run_to
from compiler.prune.prune import prune_model
from compiler.prune.rebuild import refit
from compiler.prune.remove import own_weights
from tests.prune.graphs import Net, answer, stream

GROUPED = {
    "depthwise": (6, 6, {}),
    "strided depthwise": (6, 6, {"strides": [2, 3], "pads": [0, 1, 2, 1]}),
    "depthwise of two outputs each": (6, 12, {"auto_pad": "SAME_UPPER"}),
    "two groups": (2, 8, {"dilations": [2, 1]}),
}


@pytest.mark.parametrize(("groups", "outputs", "attributes"), GROUPED.values(), ids=GROUPED)
def test_rows_times_matrix_is_what_the_runtime_computes_in_each_group(
    groups: int, outputs: int, attributes: dict[str, object], tmp_path: Path
) -> None:
    net = Net()
    weight = net.constant(net.normal(outputs, 6 // groups, 3, 2))
    wide = net.op("Conv", net.conv("x", 6), weight, width=outputs, group=groups, **attributes)
    model = own_weights(net.graph(net.head(wide), tmp_path).prepared)
    (layer,) = list_grouped(model.graph).values()
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    x, y = run_to(model, [layer.x, layer.y])(next(stream(1)()))
    picked = layer.pick(y.shape, 7, np.random.default_rng(0))
    matrix = layer.matrix(weights[layer.weight])
    bias = weights[layer.bias or ""].reshape(groups, 1, -1)
    made = layer.inputs_at(x, y.shape, picked) @ matrix + bias
    assert made.shape == (groups, len(picked), outputs // groups)
    np.testing.assert_allclose(made, layer.outputs_at(y, picked), atol=1e-4)
    np.testing.assert_array_equal(layer.weights(matrix), weights[layer.weight])


def depthwise(net: Net) -> str:
    """The depthwise layer's inputs are outputs of a layer that loses some of its own."""
    hidden = net.relu(net.conv(net.relu(net.conv("x", 20)), 12))
    return net.head(net.relu(net.depthwise(hidden)))


def two_groups(net: Net) -> str:
    hidden = net.relu(net.conv(net.relu(net.conv("x", 20)), 12))
    weight, bias = net.constant(net.normal(12, 6, 3, 3)), net.constant(net.normal(12))
    return net.head(net.relu(net.op("Conv", hidden, weight, bias, group=2, pads=[1] * 4)))


@pytest.mark.parametrize("build", [depthwise, two_groups], ids=lambda build: build.__name__)
def test_behind_a_pruned_layer_a_grouped_one_is_refitted_and_errs_less(
    build: Callable[[Net], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net()
    graph = net.graph(build(net), tmp_path)
    wanted = answer(graph.prepared, rows=50)

    def error() -> float:
        made = prune_model(graph, stream(20), keep=0.6, pairs_only=True).graph.prepared
        found = answer(made, rows=50)
        return float(np.square(found - wanted).sum())

    refitted = error()
    monkeypatch.setattr(prune, "list_grouped", lambda graph: {})
    assert refitted < error()


@pytest.mark.parametrize("constant", ["every input", "one large input"])
def test_rounding_errors_of_constant_inputs_are_not_fitted(constant: str) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(0, 1, (4, 200, 9))
    if constant == "every input":
        rows[...] = rows[:, :1]
    else:
        rows[1] = 3e4
    matrix = random.normal(0, 1, (4, 9, 2))
    wanted = rows @ matrix + random.normal(0, 0.1, (4, 200, 2))

    def moments(targets: Array) -> Moments:
        return Moments(
            xx=rows.swapaxes(1, 2) @ rows,
            xt=rows.swapaxes(1, 2) @ targets,
            tt=np.square(targets).sum(1),
            x=rows.sum(1),
            t=targets.sum(1),
            n=200,
        )

    first = moments(wanted).centred()
    for given in (first, first.eased(moments(np.maximum(wanted, 0)), bias_is_free=True)):
        made, bias, error = refit(given, matrix, bias_is_free=True)
        assert 0 <= error <= 1
        assert np.isfinite(bias).all()
        np.testing.assert_allclose(made[1], matrix[1], rtol=1e-9)
        assert np.abs(made).max() < 10


def test_a_grouped_layer_that_nothing_pruned_feeds_keeps_its_weights(tmp_path: Path) -> None:
    net = Net()
    hidden = net.relu(net.depthwise("x"))
    graph = net.graph(net.head(net.relu(net.conv(net.relu(net.conv(hidden, 10)), 10))), tmp_path)
    result = prune_model(graph, stream(), keep=0.5)
    assert result.pruned
    before, after = (
        {t.name: t.raw_data for t in model.graph.initializer}
        for model in (graph.prepared, result.graph.prepared)
    )
    first = graph.prepared.graph.node[0]
    assert all(before[name] == after[name] for name in first.input[1:])


def test_one_thread_and_two_refit_to_the_same_bytes(tmp_path: Path) -> None:
    net = Net()
    graph = net.graph(depthwise(net), tmp_path)
    here = prune_model(graph, stream(), keep=0.7).graph.prepared
    again = (
        "import sys, onnx; from pathlib import Path\n"
        "from compiler.graph.floatgraph import normalise\n"
        "from compiler.graph.source import load_source\n"
        "from compiler.prune.prune import prune_model; from tests.prune.graphs import stream\n"
        "graph = normalise(load_source(Path(sys.argv[1])))\n"
        "made = prune_model(graph, stream(), keep=0.7).graph.prepared\n"
        "sys.stdout.buffer.write(made.SerializeToString(deterministic=True))\n"
    )
    for threads in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", again, str(tmp_path / "net.onnx")],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
        )
        assert onnx.ModelProto.FromString(run.stdout) == here
