"""Plans written as int8 .tflite: the integers of the plan, in both runtimes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import CompileError
from compiler.graph.floatgraph import normalise
from compiler.graph.source import Source
from compiler.plan.draft import draft_plan
from compiler.plan.plan import Plan
from compiler.plan.structure import survey
from compiler.tflite.emit import emit_tflite
from compiler.tflite.to_onnx import tflite_to_onnx
from tests.tflite.networks import NETWORKS
from tests.tflite.old_runtime import OldRuntime

SHARED = Path(os.environ.get("WHERRY_SHARED") or Path(__file__).parents[3] / "shared" / "data")

Array = npt.NDArray[np.float32]

ONE_OUTPUT = [name for name in NETWORKS if name != "ssd_heads"]


def frames(model: onnx.ModelProto, count: int, seed: int) -> Array:
    """float32 ``[count, 1, ...]``."""
    sizes = [axis.dim_value or 1 for axis in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).normal(0, 1, (count, *sizes)).astype(np.float32)


def plan_for(model: onnx.ModelProto, x: Array, left_float: frozenset[str] = frozenset()) -> Plan:
    """A MinMax plan."""
    source = Source(
        model=model,
        digest="",
        size_bytes=0,
        batch_is_free=True,
    )
    graph = normalise(source)
    prepared = graph.prepared
    everywhere = onnx.ModelProto.FromString(prepared.SerializeToString())
    known = {value.name for value in everywhere.graph.output}
    names = sorted({name for node in prepared.graph.node for name in node.output} - known)
    everywhere.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = ort.InferenceSession(everywhere.SerializeToString())
    seen: dict[str, list[Array]] = {graph.input_name: list(x)}
    for frame in x:
        values = session.run(None, {prepared.graph.input[0].name: frame})
        for value, made in zip(session.get_outputs(), values, strict=True):
            seen.setdefault(value.name, []).append(made)
    ranges = {
        name: (float(min(v.min() for v in rows)), float(max(v.max() for v in rows)))
        for name, rows in seen.items()
        if rows[0].dtype == np.float32
    }
    return draft_plan(
        prepared, survey(prepared, left_float), ranges, "asymmetric", left_float=left_float
    )


def run_float(model: onnx.ModelProto, x: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString())
    name = session.get_inputs()[0].name
    return np.array([session.run(None, {name: frame})[0].reshape(-1) for frame in x])


def run_int8(data: bytes, x: Array) -> Array:
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for frame in x:
        interpreter.set_tensor(source["index"], frame)
        interpreter.invoke()
        rows.append(interpreter.get_tensor(scores["index"]).reshape(-1).copy())
    return np.array(rows)


def opened(data: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(data, 0)


def kinds(data: bytes) -> list[str]:
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    model = opened(data)
    return [
        names[model.operatorCodes[op.opcodeIndex].builtinCode]
        for op in model.subgraphs[0].operators
    ]


def noise_of(actual: Array, expected: Array) -> float:
    """Error over signal."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected - expected.mean()))


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_emitted_network_answers_as_the_float_model(name: str) -> None:
    model = tflite_to_onnx(name, NETWORKS[name]())
    plan = plan_for(model, frames(model, 60, 1))
    fresh = frames(model, 60, 2)
    actual, expected = run_int8(emit_tflite(plan), fresh), run_float(model, fresh)
    assert noise_of(actual, expected) < 0.1


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_every_layer_of_the_plan_is_an_int8_operator(name: str) -> None:
    model = tflite_to_onnx(name, NETWORKS[name]())
    plan = plan_for(model, frames(model, 20, 1))
    graph = opened(emit_tflite(plan)).subgraphs[0]
    layers = [
        op
        for op, kind in zip(graph.operators, kinds(emit_tflite(plan)), strict=True)
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    ]
    assert len(layers) == len(plan.layers)
    for op in layers:
        kept = [graph.tensors[index] for index in (*op.inputs, *op.outputs)]
        assert [tensor.type for tensor in kept] == [9, 9, 2, 9]
        source, weights, bias, _ = (tensor.quantization for tensor in kept)
        assert not any(weights.zeroPoint)
        assert not any(bias.zeroPoint)
        np.testing.assert_array_equal(
            bias.scale, np.float32(source.scale[0]) * np.asarray(weights.scale, np.float32)
        )


def test_weights_and_scales_are_those_of_the_plan() -> None:
    model = tflite_to_onnx("m", NETWORKS["mobilenet_v1"]())
    plan = plan_for(model, frames(model, 20, 1))
    file = opened(emit_tflite(plan))
    graph = file.subgraphs[0]
    depthwise = next(layer for layer in plan.layers.values() if layer.weight.values.shape[1] == 1)
    place = kinds(emit_tflite(plan)).index("DEPTHWISE_CONV_2D")
    weights = graph.tensors[graph.operators[place].inputs[1]]
    assert weights.quantization.quantizedDimension == 3
    np.testing.assert_array_equal(weights.quantization.scale, depthwise.weight.scales)
    stored = np.asarray(file.buffers[weights.buffer].data, np.uint8).view(np.int8)
    np.testing.assert_array_equal(
        stored.reshape(weights.shape), depthwise.weight.values.transpose(1, 2, 3, 0)
    )


def test_input_and_output_are_float_and_named_as_in_the_graph() -> None:
    model = tflite_to_onnx("m", NETWORKS["resnet"]())
    plan = plan_for(model, frames(model, 10, 1))
    data = emit_tflite(plan)
    interpreter = Interpreter(model_content=data)
    (source,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (source["name"], list(source["shape"])) == (model.graph.input[0].name, [1, 16, 16, 3])
    assert (scores["name"], list(scores["shape"])) == (model.graph.output[0].name, [1, 5])
    assert source["dtype"] == scores["dtype"] == np.float32
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": [source["name"]], "outputs": [scores["name"]]}
    }
    assert kinds(data)[0] == "QUANTIZE"
    assert kinds(data)[-1] == "DEQUANTIZE"


def test_network_that_came_as_nhwc_goes_out_without_a_transpose() -> None:
    for name in ("mobilenet_v1", "mobilenet_v2"):
        model = tflite_to_onnx(name, NETWORKS[name]())
        assert "TRANSPOSE" not in kinds(emit_tflite(plan_for(model, frames(model, 5, 1))))


def test_same_plan_gives_the_same_bytes() -> None:
    model = tflite_to_onnx("m", NETWORKS["mobilenet_v3"]())
    x = frames(model, 10, 1)
    assert emit_tflite(plan_for(model, x)) == emit_tflite(plan_for(model, x))


def test_weights_lie_on_multiples_of_16_bytes() -> None:
    model = tflite_to_onnx("m", NETWORKS["resnet"]())
    data = emit_tflite(plan_for(model, frames(model, 5, 1)))
    file = schema.Model.GetRootAs(data, 0)
    starts = []
    for index in range(file.BuffersLength()):
        values = file.Buffers(index).DataAsNumpy()
        if not isinstance(values, int):
            starts.append(
                values.__array_interface__["data"][0]
                - np.frombuffer(data, np.uint8).__array_interface__["data"][0]
            )
    assert len(starts) > 10
    assert not any(start % 16 for start in starts)


def test_layer_that_the_plan_leaves_float_stays_float() -> None:
    model = tflite_to_onnx("m", NETWORKS["ds_cnn"]())
    x = frames(model, 30, 1)
    first = next(iter(plan_for(model, x).layers))
    plan = plan_for(model, x, frozenset({first}))
    data = emit_tflite(plan)
    graph = opened(data).subgraphs[0]
    op = graph.operators[kinds(data).index("CONV_2D")]
    assert {graph.tensors[index].type for index in (*op.inputs, *op.outputs)} == {0}
    fresh = frames(model, 30, 2)
    assert noise_of(run_int8(data, fresh), run_float(model, fresh)) < 0.1


def native(nodes: list[onnx.NodeProto], weights: dict[str, Array], out: list[int]) -> Any:
    """An ONNX model with images ``[1, 4, 12, 10]``, as another exporter writes them."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 12, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(0, 0.3, shape).astype(np.float32)


CONV = helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1])
WEIGHTS = {"w": random(8, 4, 3, 3), "b": random(8)}


@pytest.mark.parametrize(
    ("tail", "extra", "out"),
    [
        ([helper.make_node("Conv", ["c", "w2"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])],
         {"w2": random(6, 8, 3, 3)}, [1, 6, 6, 5]),
        ([helper.make_node("Conv", ["c", "w2"], ["y"], strides=[2, 1], pads=[2, 0, 0, 1])],
         {"w2": random(6, 8, 3, 3)}, [1, 6, 6, 9]),
        ([helper.make_node("Conv", ["c", "w2"], ["y"], group=8, pads=[2, 2, 2, 2],
                           dilations=[2, 2])], {"w2": random(16, 1, 3, 3)}, [1, 16, 12, 10]),
        ([helper.make_node("Conv", ["c", "w2"], ["y"], group=2, auto_pad="SAME_LOWER",
                           strides=[1, 2])], {"w2": random(4, 4, 2, 2)}, [1, 4, 12, 5]),
        ([helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[3, 3], strides=[2, 2],
                           pads=[1, 1, 1, 1]),
          helper.make_node("Conv", ["p", "w2"], ["y"])], {"w2": random(3, 8, 1, 1)}, [1, 3, 6, 5]),
        ([helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[3, 2], strides=[3, 3],
                           ceil_mode=1),
          helper.make_node("Conv", ["p", "w2"], ["y"])], {"w2": random(3, 8, 1, 1)}, [1, 3, 4, 4]),
        ([helper.make_node("AveragePool", ["c"], ["p"], kernel_shape=[3, 3], strides=[2, 2],
                           pads=[1, 1, 1, 1], count_include_pad=1),
          helper.make_node("Conv", ["p", "w2"], ["y"])], {"w2": random(3, 8, 1, 1)}, [1, 3, 6, 5]),
        ([helper.make_node("Relu", ["c"], ["r"]),
          helper.make_node("Flatten", ["r"], ["f"]),
          helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], transB=1)],
         {"w2": random(7, 960), "b2": random(7)}, [1, 7]),
        ([helper.make_node("Sigmoid", ["c"], ["s"]), helper.make_node("Mul", ["c", "s"], ["m"]),
          helper.make_node("Conv", ["m", "w2"], ["y"])],
         {"w2": random(3, 8, 1, 1)}, [1, 3, 12, 10]),
        ([helper.make_node("Conv", ["x", "w2"], ["d"]), helper.make_node("Relu", ["d"], ["e"]),
          helper.make_node("Concat", ["c", "e"], ["j"], axis=1),
          helper.make_node("Conv", ["j", "w3"], ["y"])],
         {"w2": random(5, 4, 1, 1), "w3": random(3, 13, 1, 1)}, [1, 3, 12, 10]),
        ([helper.make_node("LeakyRelu", ["c"], ["l"], alpha=0.2),
          helper.make_node("Conv", ["l", "w2"], ["y"])],
         {"w2": random(3, 8, 1, 1)}, [1, 3, 12, 10]),
        ([helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 1, 3]),
          helper.make_node("Reshape", ["t", "shape"], ["f"]),
          helper.make_node("Gemm", ["f", "w2"], ["y"])],
         {"w2": random(960, 4), "shape": np.array([1, -1])}, [1, 4]),
        ([helper.make_node("GlobalAveragePool", ["c"], ["p"]),
          helper.make_node("Flatten", ["p"], ["f"]),
          helper.make_node("MatMul", ["f", "w2"], ["y"])], {"w2": random(8, 4)}, [1, 4]),
    ],
    ids=["torch pads", "odd pads", "dilated depthwise", "groups, same lower", "padded max pool",
         "ceil max pool", "average counts pads", "flatten", "swish", "concat", "leaky relu",
         "transpose", "global average and matmul"],
)  # fmt: skip
def test_native_onnx_network_is_written_too(
    tail: list[onnx.NodeProto], extra: dict[str, Array], out: list[int]
) -> None:
    model = native([CONV, *tail], WEIGHTS | extra, out)
    fresh = frames(model, 40, 2)
    # The last grid saturates: calibrated on these frames too, so that only steps are measured.
    plan = plan_for(model, np.concatenate([frames(model, 40, 1), fresh]))
    data = emit_tflite(plan)
    assert list(Interpreter(model_content=data).get_input_details()[0]["shape"]) == [1, 4, 12, 10]
    assert noise_of(run_int8(data, fresh), run_float(model, fresh)) < 0.06


def test_operators_that_cannot_be_written_are_listed() -> None:
    model = native(
        [CONV, helper.make_node("Erf", ["c"], ["e"]), helper.make_node("Erf", ["e"], ["y"])],
        WEIGHTS,
        [1, 8, 12, 10],
    )
    with pytest.raises(CompileError, match=r"cannot be written to \.tflite: Erf \(Erf_1, Erf_2\)"):
        emit_tflite(plan_for(model, frames(model, 5, 1)))


def test_average_that_leaves_its_pads_out_is_refused_by_name() -> None:
    model = native(
        [CONV, helper.make_node("AveragePool", ["c"], ["y"], kernel_shape=[3, 3],
                                strides=[2, 2], pads=[1, 1, 1, 1])], WEIGHTS, [1, 8, 6, 5],
    )  # fmt: skip
    with pytest.raises(CompileError, match="leaves its pads"):
        emit_tflite(plan_for(model, frames(model, 5, 1)))


@pytest.mark.parametrize(("name", "agreement"), [("kws", 0.97), ("ic", 0.93)])
def test_real_model_keeps_its_answers_in_int8(name: str, agreement: float) -> None:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no data of the model {name!r}: set WHERRY_SHARED to their folder")
    source = (folder / f"{name}_float.tflite").read_bytes()
    model = tflite_to_onnx(name, source)
    with np.load(folder / "calibration.npz") as file:
        calibration = file["x"][:150, None].astype(np.float32)
    with np.load(folder / "test.npz") as file:
        fresh = file["x"][:300, None].astype(np.float32)
    data = emit_tflite(plan_for(model, calibration))
    actual, expected = run_int8(data, fresh), run_float(model, fresh)
    assert (actual.argmax(1) == expected.argmax(1)).mean() >= agreement
    assert len(data) < len(source) / 2


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3", "resnet", "ds_cnn"])
def test_emitted_file_agrees_in_tflite_runtime_2_14(
    name: str, tmp_path: Path, old_runtime: OldRuntime
) -> None:
    model = tflite_to_onnx(name, NETWORKS[name]())
    plan = plan_for(model, frames(model, 60, 1))
    fresh = frames(model, 60, 2)
    data = emit_tflite(plan)
    old, signatures = old_runtime.answer(data, fresh, tmp_path)
    assert "serving_default" in signatures
    new = run_int8(data, fresh)
    assert noise_of(old, run_float(model, fresh)) < 0.1
    # Kernels of both round by one step of the last grid here and there.
    assert noise_of(old, new) < 0.03
    assert (old.argmax(1) == new.argmax(1)).mean() > 0.95
