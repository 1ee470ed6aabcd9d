"""Plans and the files that emitters make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from compiler.calibrate.ranges import collect_stats
from compiler.emit.onnx_qdq import activations_for, emit_onnx, scale_cache
from compiler.graph.floatgraph import FloatGraph
from compiler.graph.layers import list_layers
from compiler.plan.draft import draft_plan
from compiler.plan.plan import Activations, Plan, grid_of
from compiler.plan.structure import survey
from compiler.proof.audit import audit
from edge_contract.model import Int8Scheme
from tests.compiler.models import Array, frames, matmul_model, residual_cnn, small_cnn
from tests.compiler.test_quantize import float_graph, one_by_one, run

SCHEMES: tuple[Int8Scheme, ...] = get_args(Int8Scheme)


def draft(graph: FloatGraph, x: Array, activations: Activations) -> Plan:
    ranges = {name: s.central(1.0) for name, s in collect_stats(graph, one_by_one(x)).items()}
    return draft_plan(graph.prepared, survey(graph.prepared), ranges, activations)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.sampled_from(["asymmetric", "symmetric"]))
def test_a_grid_covers_its_range_and_holds_zero(
    low: float, width: float, activations: Activations
) -> None:
    grid = grid_of(low, low + width, activations)
    assert grid.scale > 0
    assert -128 <= grid.zero_point <= 127
    assert activations == "asymmetric" or grid.zero_point == 0
    # One step of slack: the zero point is rounded.
    assert grid.low <= min(low, 0) + grid.scale
    assert grid.high >= max(low + width, 0) - grid.scale


def test_a_range_that_is_none_is_refused() -> None:
    for low, high in ((float("nan"), 1.0), (0.0, float("inf")), (1.0, 0.0)):
        with pytest.raises(ValueError, match="no grid"):
            grid_of(low, high, "asymmetric")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("make", [small_cnn, residual_cnn])
def test_every_scheme_runs_in_int8_and_answers_as_the_float_model(
    tmp_path: Path,
    make: Callable[[], ModelProto],
    scheme: Int8Scheme,
) -> None:
    model = make()
    graph = float_graph(model, tmp_path)
    x, _ = frames(60, 3)
    data = emit_onnx(draft(graph, x, activations_for(scheme)), scheme)
    onnx.checker.check_model(data)
    found = audit(data, scheme, list_layers(graph, x[:1]))
    assert (found.seen, found.macs_share) == (found.expected, 1.0)
    fresh, _ = frames(200, 4)
    floating = run(graph.model.SerializeToString(), "float32", "frames", fresh)
    int8 = run(data, scheme, "frames", fresh)
    assert (floating.argmax(1) == int8.argmax(1)).mean() > 0.95


@pytest.mark.parametrize("scheme", SCHEMES)
def test_fully_connected_layers_run_in_int8_in_every_scheme(
    tmp_path: Path, scheme: Int8Scheme
) -> None:
    graph = float_graph(matmul_model(), tmp_path)
    x = np.random.default_rng(0).normal(0, 1, (50, 16)).astype(np.float32)
    data = emit_onnx(draft(graph, x, activations_for(scheme)), scheme)
    found = audit(data, scheme, list_layers(graph, x[:1]))
    assert (found.seen, found.macs_share) == (2, 1.0)


def test_symmetric_files_have_zero_points_zero_float_biases_and_pairs_on_residual_inputs(
    tmp_path: Path,
) -> None:
    graph = float_graph(residual_cnn(), tmp_path)
    x, _ = frames(60, 3)
    plan = draft(graph, x, "symmetric")
    model = onnx.load_model_from_string(emit_onnx(plan, "s8s8-symmetric"))
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not values[node.input[2]].any()
        if node.op_type == "Conv" and len(node.input) > 2:
            assert values[node.input[2]].dtype == np.float32
    adds = [n for n in model.graph.node if n.name.startswith("Add")]
    assert adds
    for add in adds:
        assert [makers[name].op_type for name in add.input] == ["DequantizeLinear"] * 2
    assert {t.dtype for t in values.values()} >= {np.dtype(np.int8), np.dtype(np.float32)}
    assert np.dtype(np.int32) not in {t.dtype for t in values.values()}


def test_the_scale_cache_lists_every_grid(tmp_path: Path) -> None:
    graph = float_graph(small_cnn(), tmp_path)
    x, _ = frames(30, 3)
    plan = draft(graph, x, "symmetric")
    first, *lines = scale_cache(plan).decode().splitlines()
    assert first.startswith("TRT-")
    read = dict(line.split(": ") for line in lines)
    assert read.keys() == plan.grids.keys()
    for name, bits in read.items():
        assert np.frombuffer(bytes.fromhex(bits), ">f4")[0] == np.float32(plan.grids[name].scale)
    with pytest.raises(ValueError, match="symmetric"):
        scale_cache(draft(graph, x, "asymmetric"))


def test_a_plan_cannot_be_written_in_a_scheme_of_the_other_kind(tmp_path: Path) -> None:
    graph = float_graph(small_cnn(), tmp_path)
    x, _ = frames(30, 3)
    with pytest.raises(ValueError, match="cannot become"):
        emit_onnx(draft(graph, x, "asymmetric"), "s8s8-symmetric")


def test_equal_inputs_give_equal_plans_and_other_ranges_another_digest(tmp_path: Path) -> None:
    x, _ = frames(30, 3)
    made = [draft(float_graph(small_cnn(), tmp_path), x, "asymmetric") for _ in range(2)]
    assert made[0].digest() == made[1].digest()
    assert emit_onnx(made[0], "s8s8") == emit_onnx(made[1], "s8s8")
    other = draft(float_graph(small_cnn(), tmp_path), 2 * x, "asymmetric")
    assert other.digest() != made[0].digest()


def test_a_relu_that_saturation_performs_is_left_out(tmp_path: Path) -> None:
    graph = float_graph(small_cnn(), tmp_path)
    x, _ = frames(30, 3)
    plan = draft(graph, x, "asymmetric")
    model = onnx.load_model_from_string(emit_onnx(plan, "s8s8"))
    assert not [n for n in model.graph.node if n.op_type == "Relu"]
    assert len(plan.absorbed) == 3
    for layer in plan.layers.values():
        assert not layer.absorbed or plan.grids[layer.output].low == 0


def test_a_bias_that_would_not_fit_into_int32_sets_its_channels_scale(tmp_path: Path) -> None:
    source = small_cnn()
    tiny = next(t for t in source.graph.initializer if t.name == "w2")
    values = numpy_helper.to_array(tiny).copy()
    values[3] *= 1e-12
    tiny.CopyFrom(numpy_helper.from_array(values, "w2"))
    graph = float_graph(source, tmp_path)
    x, _ = frames(30, 3)
    for layer in draft(graph, x, "asymmetric").layers.values():
        if layer.bias is not None:
            assert layer.weight is not None
            assert layer.bias_float is not None
            assert np.abs(layer.bias.astype(np.int64)).max() <= 2**30
