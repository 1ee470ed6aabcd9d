"""2:4 zeros: the pattern, the choice, and what the weights that stay make good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import numpy_helper

from compiler.prune.moments import Moments
from compiler.prune.sparsity import columns_of, fit_masked, is_sparse, solve_sparse, sparsify
from tests.prune.graphs import Net, answer, stream


def wide(net: Net) -> str:
    hidden = net.relu(net.depthwise(net.relu(net.conv("x", 16))))
    return net.head(net.relu(net.conv(hidden, 24)))


def test_every_layer_whose_inputs_come_in_fours_gets_the_pattern(tmp_path: Path) -> None:
    net = Net()
    graph = net.graph(wide(net), tmp_path)
    sparse, names = sparsify(graph, stream())
    weights = {t.name: numpy_helper.to_array(t) for t in sparse.prepared.graph.initializer}
    assert len(names) == 2
    for node in sparse.prepared.graph.node:
        if node.op_type == "Conv" and node.name in names:
            assert is_sparse(weights[node.input[1]], 1)
            # Each kernel position of its own, as the hardware reads them.
            assert np.count_nonzero(weights[node.input[1]]) == weights[node.input[1]].size // 2
        elif node.op_type == "Conv":
            assert np.count_nonzero(weights[node.input[1]]) == weights[node.input[1]].size
        elif node.op_type == "Gemm":
            assert is_sparse(weights[node.input[1]], 0)


def test_it_is_better_than_dropping_the_smallest_weights(tmp_path: Path) -> None:
    net = Net()
    graph = net.graph(wide(net), tmp_path)
    wanted = answer(graph.prepared)
    ours = answer(sparsify(graph, stream())[0].prepared)
    plain = type(graph.prepared)()
    plain.CopyFrom(graph.prepared)
    tensors = {tensor.name: tensor for tensor in plain.graph.initializer}
    for node in plain.graph.node:
        weight = numpy_helper.to_array(tensors[node.input[1]]) if node.op_type in (
            "Conv", "Gemm") else np.zeros((1, 1))  # fmt: skip
        axis = 1 if node.op_type == "Conv" else 0
        if weight.shape[axis] % 4 or weight.shape[axis] == 1:
            continue
        fours = np.moveaxis(weight.copy(), axis, -1)
        shape = fours.shape
        fours = fours.reshape(-1, 4)
        np.put_along_axis(fours, np.abs(fours).argsort(axis=1)[:, :2], 0, axis=1)
        small = np.moveaxis(fours.reshape(shape), -1, axis)
        tensors[node.input[1]].CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(small), node.input[1])
        )
    error = [float(np.square(given - wanted).sum()) for given in (ours, answer(plain))]
    assert error[0] < 0.5 * error[1]


def test_weights_that_stay_are_the_least_squares_solution() -> None:
    random = np.random.default_rng(0)
    x = random.normal(0, 1, (500, 12)) @ random.normal(0, 1, (12, 12))
    hessian = x.T @ x + np.eye(12)
    right = random.normal(0, 100, (12, 3))
    mask = random.random((12, 3)) < 0.5
    found = fit_masked(hessian, right, np.zeros((12, 3)), mask)
    for column in range(3):
        alive = np.flatnonzero(mask[:, column])
        exact = np.linalg.solve(hessian[np.ix_(alive, alive)], right[alive, column])
        np.testing.assert_allclose(found[alive, column], exact, rtol=1e-6, atol=1e-9)
        assert (found[~mask[:, column], column] == 0).all()


def test_a_model_that_is_sparse_already_stays_what_it_is() -> None:
    random = np.random.default_rng(1)
    columns = columns_of(8, 1)
    weight = random.normal(0, 1, (8, 5))
    weight[2:4] = weight[4:6] = 0
    x = random.normal(0, 1, (300, 8))
    t = x @ weight
    n = float(len(x))
    sums = Moments(x.T @ x, x.T @ t, (t * t).sum(0), x.sum(0), t.sum(0), n).centred()
    np.testing.assert_allclose(solve_sparse(sums, weight, columns), weight, atol=1e-6)


def test_columns_in_fours_are_one_tap_of_four_channels() -> None:
    assert columns_of(8, 2).reshape(-1, 4).tolist() == [
        [0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15],
    ]  # fmt: skip


def test_two_runs_give_the_same_bytes_and_leave_the_graph_alone(tmp_path: Path) -> None:
    net = Net()
    graph = net.graph(wide(net), tmp_path)
    before = graph.prepared.SerializeToString()
    first, second = (sparsify(graph, stream())[0].prepared for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
    assert graph.prepared.SerializeToString() == before


def test_a_graph_without_fours_is_handed_back(tmp_path: Path) -> None:
    net = Net()
    graph = net.graph(net.head(net.relu(net.conv("x", 10))), tmp_path)
    same, names = sparsify(graph, stream())
    assert same is graph
    assert names == ()
