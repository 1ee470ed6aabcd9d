"""Ranges, the int8 graph, and the audit of what really runs in int8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from compiler.calibrate.ranges import BINS, TensorStats, collect_stats
from compiler.emit.onnx_qdq import emit_onnx
from compiler.errors import DatasetError
from compiler.graph.floatgraph import FloatGraph, normalise
from compiler.graph.layers import list_layers
from compiler.graph.source import load_source
from compiler.graph.tail import score_step
from compiler.plan.draft import draft_plan
from compiler.plan.structure import survey
from compiler.proof.audit import audit
from edge_contract.model import Int8Scheme
from edge_runtime.onnx_session import session_options
from tests.compiler.models import Array, frames, matmul_model, small_cnn


def float_graph(model: ModelProto, folder: Path) -> FloatGraph:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return normalise(load_source(path))


def run(model: bytes, scheme: str, name: str, x: Array) -> Array:
    session = ort.InferenceSession(model, session_options(scheme))
    rows = [session.run(None, {name: row[None]})[0][0] for row in x]
    return np.stack(rows)


def one_by_one(x: npt.NDArray[np.float32]):  # type: ignore[no-untyped-def]
    def samples() -> Iterator[npt.NDArray[np.float32]]:
        yield from (row[None] for row in x)

    return samples


def quantize(
    graph: FloatGraph, stats: dict[str, TensorStats], scheme: Int8Scheme, share: float = 0.9999
) -> bytes:
    """The int8 model with percentile ranges."""
    ranges = {name: one.central(share) for name, one in stats.items()}
    plan = draft_plan(graph.prepared, survey(graph.prepared), ranges, "asymmetric")
    return emit_onnx(plan, scheme)


def stats_of(values: npt.NDArray[np.float64]) -> TensorStats:
    counts, _ = np.histogram(values, BINS)
    return TensorStats(float(values.min()), float(values.max()), counts.astype(np.int64))


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=300).filter(
        lambda v: max(v) - min(v) > 1e-3
    ),
    st.sampled_from([0.9, 0.99, 0.9999]),
)
def test_central_range_keeps_its_share_at_either_end(values: list[float], share: float) -> None:
    array = np.array(values)
    low, high = stats_of(array).central(share)
    width = (array.max() - array.min()) / BINS
    assert array.min() <= low <= high <= array.max()
    assert (array >= low - width).mean() >= share
    assert (array <= high + width).mean() >= share
    # And no more than a bin beyond what the share asks for.
    assert (array > high).mean() <= 1 - share + 1e-12
    assert (array < low).mean() <= 1 - share + 1e-12


def test_the_extremes_are_kept_when_all_is_asked_for() -> None:
    stats = stats_of(np.array([-3.0, 0.0, 9.0]))
    assert stats.central(1.0) == (-3.0, 9.0)


def test_outliers_are_left_out_by_the_percentile() -> None:
    values = np.concatenate([np.linspace(0, 1, 100_000), [1000.0]])
    assert stats_of(values).central(0.9999)[1] < 2


def test_statistics_do_not_depend_on_where_the_samples_are_cut(tmp_path: Path) -> None:
    graph = float_graph(small_cnn(), tmp_path)
    x, _ = frames(24, 3)
    stats = collect_stats(graph, one_by_one(x))
    pixels = stats["frames"]
    assert (pixels.low, pixels.high) == (float(x.min()), float(x.max()))
    assert pixels.counts.sum() == x.size
    again = collect_stats(graph, one_by_one(x))
    assert all((stats[name].counts == again[name].counts).all() for name in stats)


def test_a_sample_that_overflows_the_model_is_named(tmp_path: Path) -> None:
    graph = float_graph(small_cnn(), tmp_path)
    x, _ = frames(3, 3)
    x[2] = 3e38
    with pytest.raises(DatasetError, match="calibration sample 2"):
        collect_stats(graph, one_by_one(x))


@pytest.mark.parametrize("scheme", ["s8s8", "u8s8"])
@pytest.mark.parametrize("batch", ["batch", 1])
def test_every_layer_runs_in_int8_and_answers_as_the_float_model(
    tmp_path: Path, scheme: Int8Scheme, batch: int | str
) -> None:
    graph = float_graph(small_cnn(batch=batch), tmp_path)
    x, _ = frames(60, 3)
    model = quantize(graph, collect_stats(graph, one_by_one(x)), scheme)
    layers = list_layers(graph, x[:1])
    found = audit(model, scheme, layers)
    assert (found.expected, found.seen, found.macs_share) == (4, 4, 1.0)
    assert found.left_float == []
    fresh, _ = frames(200, 4)
    floating = run(graph.model.SerializeToString(), "float32", "frames", fresh)
    int8 = run(model, scheme, "frames", fresh)
    assert (floating.argmax(1) == int8.argmax(1)).mean() > 0.97


def test_weights_are_int8_per_output_channel(tmp_path: Path) -> None:
    graph = float_graph(small_cnn(), tmp_path)
    x, _ = frames(30, 3)
    model = onnx.load_model_from_string(
        quantize(graph, collect_stats(graph, one_by_one(x)), "s8s8")
    )
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    int8 = [w for w in weights.values() if w.dtype == np.int8 and w.ndim == 4]
    assert sorted(w.shape[0] for w in int8) == [16, 16, 32]
    assert sum(1 for w in weights.values() if w.dtype == np.float32 and w.shape == (32,)) == 1


def test_fully_connected_layers_with_batch_norm_are_counted_and_run_in_int8(
    tmp_path: Path,
) -> None:
    graph = float_graph(matmul_model(), tmp_path)
    x = np.random.default_rng(0).normal(0, 1, (50, 16)).astype(np.float32)
    layers = list_layers(graph, x[:1])
    assert [(layer.op, layer.macs) for layer in layers] == [("MatMul", 16 * 24), ("MatMul", 72)]
    model = quantize(graph, collect_stats(graph, one_by_one(x)), "s8s8", 1.0)
    found = audit(model, "s8s8", layers)
    assert (found.seen, found.macs_share) == (2, 1.0)


def test_macs_of_convolutions_count_groups_and_kernels(tmp_path: Path) -> None:
    graph = float_graph(small_cnn(), tmp_path)
    x, _ = frames(1, 3)
    macs = {layer.source_name: layer.macs for layer in list_layers(graph, x)}
    assert macs == {
        "n/c1": 12 * 12 * 16 * 9,
        "n/c2": 12 * 12 * 16 * 9,
        "n/c3": 12 * 12 * 32 * 16,
        "n/logits": 32 * 4,
    }


def test_audit_names_the_layers_left_in_float(tmp_path: Path) -> None:
    graph = float_graph(small_cnn(), tmp_path)
    x, _ = frames(30, 3)
    model = onnx.load_model_from_string(
        quantize(graph, collect_stats(graph, one_by_one(x)), "s8s8")
    )
    # Feed one convolution past its QuantizeLinear, as a quantiser that skipped it would.
    conv = next(n for n in model.graph.node if n.name.startswith("Conv_7"))
    conv.input[0] += "_r"
    layers = list_layers(graph, x[:1])
    found = audit(model.SerializeToString(), "s8s8", layers)
    # The runtime then keeps the convolution before it in float, too.
    assert [layer.source_name for layer in found.left_float] == ["n/c3", "n/c2"]
    assert (found.expected, found.seen) == (4, 2)
    assert found.macs_share == pytest.approx((12 * 12 * 16 * 9 + 32 * 4) / 115_328)


def test_a_float_model_has_no_int8_kernels(tmp_path: Path) -> None:
    graph = float_graph(small_cnn(), tmp_path)
    x, _ = frames(1, 3)
    found = audit(graph.model.SerializeToString(), "s8s8", list_layers(graph, x))
    assert (found.seen, found.macs_share) == (0, 0.0)
    assert len(found.left_float) == 4


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    x, _ = frames(30, 3)
    made = []
    for _ in range(2):
        graph = float_graph(small_cnn(), tmp_path)
        made.append(quantize(graph, collect_stats(graph, one_by_one(x)), "s8s8"))
    assert made[0] == made[1]


@pytest.mark.parametrize("head", ["Softmax", "Sigmoid", "LogSoftmax", ""])
def test_score_step_bounds_what_one_step_of_the_logits_does(tmp_path: Path, head: str) -> None:
    graph = float_graph(small_cnn(head=head), tmp_path)
    x, _ = frames(60, 3)
    model = onnx.load_model_from_string(
        quantize(graph, collect_stats(graph, one_by_one(x)), "s8s8")
    )
    scores = run(model.SerializeToString(), "s8s8", "frames", x)
    step = score_step(model, model.graph.output[0].name, float(np.ptp(scores)))
    assert 0 < step < 2
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    gemm = next(n for n in model.graph.node if n.op_type == "Gemm")
    read, weight = makers[gemm.input[0]], makers[gemm.input[1]]
    whole = weights[weight.input[0]] * weights[weight.input[1]]
    scale = float(weights[read.input[1]] * np.linalg.norm(whole, axis=0).max())
    random = np.random.default_rng(0)
    base = random.normal(0, 3, (4000, 4))
    moved = base + scale * random.choice([-1.0, 0.0, 1.0], base.shape)
    heads = {
        "": lambda v: v,
        "Sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "Softmax": lambda v: np.exp(v) / np.exp(v).sum(1, keepdims=True),
        "LogSoftmax": lambda v: v - np.log(np.exp(v).sum(1, keepdims=True)),
    }
    change = np.abs(heads[head](moved) - heads[head](base)).max()
    assert step / 3 < change <= step * (1 + 1e-9)
