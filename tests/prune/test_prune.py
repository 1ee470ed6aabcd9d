"""Whole runs on small graphs: counts, function, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compiler.errors import CompileError, DatasetError
from compiler.graph.layers import list_layers
from compiler.prune.allocate import exact_count
from compiler.prune.prune import prune_model
from tests.prune.graphs import Net, answer, stream, weight_shapes


def chain(net: Net) -> str:
    return net.head(net.relu(net.conv(net.relu(net.conv("x", 10)), 20)))


def residual(net: Net) -> str:
    stem = net.relu(net.conv("x", 10))
    branch = net.conv(net.relu(net.conv(stem, 10)), 10)
    return net.head(net.relu(net.op("Add", stem, branch)))


def concat(net: Net) -> str:
    parts = net.relu(net.conv("x", 10)), net.relu(net.conv("x", 20))
    both = net.op("Concat", *parts, width=30, axis=1)
    return net.head(net.relu(net.conv(both, 10, 1)))


def depthwise(net: Net) -> str:
    hidden = net.relu(net.depthwise(net.relu(net.conv("x", 10))))
    return net.head(net.relu(net.conv(hidden, 10, 1)))


def two_consumers(net: Net) -> str:
    stem = net.relu(net.conv("x", 10))
    return net.head(net.relu(net.op("Add", net.conv(stem, 20), net.conv(stem, 20, 1))))


def wide_gemm(net: Net) -> str:
    pooled = net.op("MaxPool", net.relu(net.conv("x", 10)), kernel_shape=[4, 4], strides=[4, 4])
    shape = net.constant(np.array([-1, 40], np.int64))
    flat = net.op("Reshape", pooled, shape, width=40)
    return net.gemm(net.relu(net.gemm(flat, 40, 10)), 10, 5)


def batch_norm(net: Net) -> str:
    hidden = net.relu(net.conv("x", 10))
    spread = [net.constant(np.abs(net.normal(10)) + np.float32(0.5)) for _ in range(4)]
    normed = net.op("BatchNormalization", hidden, *spread)
    return net.head(net.relu(net.conv(normed, 10)))


NETS = [chain, residual, concat, depthwise, two_consumers, wide_gemm, batch_norm]


@pytest.mark.parametrize("build", NETS, ids=lambda build: build.__name__)
def test_every_prunable_group_keeps_exactly_its_share_and_the_model_runs(
    build: Callable[[Net], str], tmp_path: Path
) -> None:
    net = Net()
    graph = net.graph(build(net), tmp_path)
    result = prune_model(graph, stream(), keep=0.8)
    open_groups = [group for group in result.groups if group.frozen is None]
    assert open_groups
    for group in open_groups:
        assert group.channels_after == round(0.8 * group.channels_before)
    onnx.checker.check_model(result.graph.prepared, full_check=True)
    before, after = answer(graph.prepared), answer(result.graph.prepared)
    assert after.shape == before.shape
    assert np.square(after - before).sum() < 0.6 * np.square(before - before.mean(0)).sum()


@pytest.mark.parametrize("build", NETS, ids=lambda build: build.__name__)
def test_the_macs_told_are_those_of_the_file(build: Callable[[Net], str], tmp_path: Path) -> None:
    net = Net()
    result = prune_model(net.graph(build(net), tmp_path), stream(), keep=0.7)
    counted = sum(layer.macs for layer in list_layers(result.graph, next(stream()())))
    assert result.macs_after == counted < result.macs_before


def test_channels_that_repeat_others_are_removed_without_any_error(tmp_path: Path) -> None:
    net = Net()
    weight = np.tile(net.normal(6, 3, 3, 3), (2, 1, 1, 1))
    conv = net.conv("x", 12, weight=weight)
    # The random biases would make the copies differ behind the Relu.
    net.weights[-1].CopyFrom(
        onnx.numpy_helper.from_array(np.zeros(12, np.float32), net.weights[-1].name)
    )
    out = net.head(net.relu(net.conv(net.relu(conv), 8)))
    graph = net.graph(out, tmp_path)
    result = prune_model(graph, stream(), amount=0.48)
    assert weight_shapes(result.graph.prepared)[0][0] == 6
    before, after = answer(graph.prepared), answer(result.graph.prepared)
    assert np.abs(after - before).max() < 1e-2 * np.abs(before).max()


def test_dead_channels_go_first(tmp_path: Path) -> None:
    net = Net()
    weight = net.normal(8, 3, 3, 3)
    weight[[1, 4, 6]] = 0
    graph = net.graph(
        net.head(net.relu(net.conv(net.relu(net.conv("x", 8, weight=weight)), 6))), tmp_path
    )
    result = prune_model(graph, stream(), keep=5 / 8, pairs_only=True)
    left = onnx.numpy_helper.to_array(
        {t.name: t for t in result.graph.prepared.graph.initializer}[
            result.graph.prepared.graph.node[0].input[1]
        ]
    )
    assert (np.abs(left).sum((1, 2, 3)) > 0).all()


def test_kept_counts_are_multiples_of_the_step_and_small_groups_stay(tmp_path: Path) -> None:
    net = Net()
    hidden = net.relu(net.conv(net.relu(net.conv("x", 24)), 8))
    graph = net.graph(net.head(net.relu(net.conv(hidden, 40))), tmp_path)
    ways: list[dict[str, Any]] = [{"keep": 0.6}, {"amount": 0.5}]
    for how in ways:
        result = prune_model(graph, stream(20), step=8, **how)
        counts = [g.channels_after for g in result.groups if g.frozen is None]
        assert all(count % 8 == 0 and count for count in counts)
        assert counts[1] == 8
        assert result.pruned


@pytest.mark.parametrize(
    ("total", "keep", "step", "kept"),
    [
        (64, 0.8, 16, 48),
        (64, 0.75, 16, 48),
        (40, 1.0, 16, 40),
        (32, 0.8, 16, 16),
        (32, 0.3, 16, 16),
        (16, 0.5, 16, 16),
        (64, 0.8, 1, 51),
        (16, 0.8, 1, 13),
    ],
)
def test_steps_never_keep_more_than_the_share_but_one_step_at_least(
    total: int, keep: float, step: int, kept: int
) -> None:
    assert exact_count(total, keep, step) == kept


def test_an_amount_is_reached_and_spent_where_it_costs_least(tmp_path: Path) -> None:
    net = Net()
    weight = np.tile(net.normal(2, 3, 3, 3), (8, 1, 1, 1))
    hidden = net.relu(net.conv(net.relu(net.conv("x", 16, weight=weight)), 16))
    graph = net.graph(net.head(net.relu(net.conv(hidden, 16))), tmp_path)
    result = prune_model(graph, stream(), amount=0.3)
    assert result.macs_after <= 0.7 * result.macs_before
    kept = [group.channels_after for group in result.groups if group.frozen is None]
    assert kept[0] < min(kept[1:])


def test_automatic_goes_as_far_as_is_accepted_and_may_prune_nothing(tmp_path: Path) -> None:
    net = Net()
    graph = net.graph(chain(net), tmp_path)
    first = prune_model(
        graph, stream(20), accept=lambda trial: weight_shapes(trial.prepared)[1][0] > 12
    )
    assert weight_shapes(first.graph.prepared)[1][0] > 12
    assert first.pruned
    none = prune_model(graph, stream(20), accept=lambda trial: False)
    assert not none.pruned
    assert none.graph is graph
    assert none.macs_after == none.macs_before


def test_two_runs_give_the_same_bytes_and_leave_the_graph_alone(tmp_path: Path) -> None:
    net = Net()
    graph = net.graph(residual(net), tmp_path)
    before = graph.prepared.SerializeToString()
    first, second = (prune_model(graph, stream(), keep=0.7, seed=3) for _ in range(2))
    assert first.graph.prepared.SerializeToString(
        deterministic=True
    ) == second.graph.prepared.SerializeToString(deterministic=True)
    assert graph.prepared.SerializeToString() == before


def test_inputs_and_outputs_are_never_touched(tmp_path: Path) -> None:
    for build in NETS:
        net = Net()
        graph = net.graph(build(net), tmp_path)
        pruned = prune_model(graph, stream(10), keep=0.5).graph.prepared.graph
        assert pruned.input == graph.prepared.graph.input
        assert pruned.output == graph.prepared.graph.output


def test_weights_that_two_layers_share_are_pruned_for_each_alone(tmp_path: Path) -> None:
    net = Net()
    stem = net.relu(net.conv("x", 8))
    first = net.relu(net.conv(stem, 8))
    name = net.nodes[-2].input[1]
    second = net.relu(net.op("Conv", first, name, width=8, pads=[1] * 4))
    result = prune_model(net.graph(net.head(second), tmp_path), stream(), keep=0.5)
    assert weight_shapes(result.graph.prepared) == [(4, 3, 3, 3), (4, 4, 3, 3), (4, 4, 3, 3)]
    assert np.isfinite(answer(result.graph.prepared)).all()


def test_the_rebuild_follows_what_earlier_removals_spoilt(tmp_path: Path) -> None:
    """Rescaling hidden channels is the same function, so the pruned one must be the same, too."""
    net = Net()
    first = net.conv("x", 10)
    weight, bias = net.weights[-2:]
    second = net.conv(net.relu(first), 10)
    out = net.head(net.relu(second))
    graph = net.graph(out, tmp_path)
    plain = answer(prune_model(graph, stream(), keep=0.7).graph.prepared)
    scale = (2.0 ** np.random.default_rng(5).integers(-6, 7, 10)).astype(np.float32)
    by_name = {tensor.name: tensor for tensor in net.weights}
    for tensor, factor in (
        (weight, scale[:, None, None, None]),
        (bias, scale),
        (by_name[net.nodes[2].input[1]], 1 / scale[None, :, None, None]),
    ):
        values = onnx.numpy_helper.to_array(tensor) * factor
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    other = answer(prune_model(net.graph(out, tmp_path), stream(), keep=0.7).graph.prepared)
    np.testing.assert_allclose(other, plain, rtol=1e-3, atol=1e-3 * np.abs(plain).max())


@pytest.mark.parametrize(
    "wrong", [{}, {"keep": 0.0}, {"keep": 1.1}, {"amount": 1.0}, {"keep": 0.5, "amount": 0.5}]
)
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    net = Net()
    graph = net.graph(chain(net), tmp_path)
    with pytest.raises(CompileError, match="pruning"):
        prune_model(graph, stream(), **wrong)


def test_no_samples_are_refused(tmp_path: Path) -> None:
    net = Net()
    with pytest.raises(DatasetError, match="calibration samples"):
        prune_model(net.graph(chain(net), tmp_path), lambda: iter(()), keep=0.5)
