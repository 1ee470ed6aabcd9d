"""Whole networks: the conversion computes the same, and looks like a native ONNX graph."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compiler.graph.precision import widen
from tests.tflite.agree import assert_converts, op_types
from tests.tflite.networks import NETWORKS
from tests.tflite.write import TfliteWriter

SHARED = Path(os.environ.get("WHERRY_SHARED") or Path(__file__).parents[3] / "shared" / "data")


@pytest.mark.parametrize("name", NETWORKS)
def test_network_computes_the_same_in_both_runtimes(name: str) -> None:
    assert_converts(NETWORKS[name]())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "ssd_heads"])
def test_free_batch_axis_stays_free(name: str) -> None:
    model = assert_converts(NETWORKS[name](), batch=3)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("name", ["kws", "ic"])
def test_real_model_computes_the_same_in_both_runtimes(name: str) -> None:
    path = SHARED / name / f"{name}_float.tflite"
    if not path.is_file():
        pytest.skip(f"no data of the model {name!r}: set WHERRY_SHARED to their folder")
    model = assert_converts(path.read_bytes())
    assert op_types(model).count("Transpose") == 1


@pytest.mark.parametrize(
    ("name", "transposes"),
    [("mobilenet_v1", 1), ("mobilenet_v2", 1), ("mobilenet_v3", 1), ("resnet", 2), ("ds_cnn", 2)],
)
def test_transposes_stand_only_at_the_borders(name: str, transposes: int) -> None:
    types = op_types(assert_converts(NETWORKS[name]()))
    assert types.count("Transpose") == transposes
    assert types[0] == "Transpose"
    inner = types[1 : types.index("Transpose", 1)] if transposes == 2 else types[1:]
    assert "Reshape" not in inner[:-3]


def test_pad_before_a_convolution_becomes_its_pads() -> None:
    model = assert_converts(NETWORKS["mobilenet_v2"]())
    assert "Pad" not in op_types(model)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    (pads,) = [list(a.ints) for a in first.attribute if a.name == "pads"]
    assert pads == [0, 0, 1, 1]


def test_fused_activations_stand_as_nodes_of_their_own() -> None:
    model = assert_converts(NETWORKS["mobilenet_v1"]())
    assert op_types(model)[1:7] == ["Conv", "Clip"] * 3


def test_input_keeps_the_shape_of_the_file() -> None:
    model = assert_converts(NETWORKS["resnet"]())
    axes = model.graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_value for axis in axes[1:]] == [16, 16, 3]


def test_conversion_is_the_same_every_time() -> None:
    from compiler.tflite.to_onnx import tflite_to_onnx

    data = NETWORKS["mobilenet_v3"]()
    first, second = (tflite_to_onnx("a", data).SerializeToString() for _ in range(2))
    assert first == second


def test_exporters_shape_arithmetic_before_a_reshape_is_left_out() -> None:
    w = TfliteWriter()
    x = w.input(1, 4, 4, 2)
    shape = w.op("SHAPE", [x], w.tensor(4, dtype="int32"), table="ShapeOptions", outType=2)
    batch = w.op(
        "STRIDED_SLICE",
        [shape, *(w.constant([n], "int32") for n in (0, 1, 1))],
        w.tensor(dtype="int32"),
        table="StridedSliceOptions",
        shrinkAxisMask=1,
    )
    wanted = w.op(
        "PACK",
        [batch, w.constant(32, "int32")],
        w.tensor(2, dtype="int32"),
        table="PackOptions",
        valuesCount=2,
    )
    x = w.op("RELU", [x], w.tensor(1, 4, 4, 2, batch_is_free=True))
    x = w.op("RESHAPE", [x, wanted], w.tensor(1, 32, batch_is_free=True))
    assert op_types(assert_converts(w.finish(x), batch=2)) == ["Relu", "Reshape"]


def test_float16_weights_are_widened_and_it_is_said() -> None:
    w = TfliteWriter()
    x = w.input(1, 6, 6, 2)
    half = w.constant(w.rng.normal(0, 0.3, (3, 3, 3, 2)), "float16")
    wide = w.op("DEQUANTIZE", [half], w.tensor(3, 3, 3, 2), table="DequantizeOptions")
    x = w.conv(x, wide, w.weights(3), 1, 6, 6, 3)
    model = assert_converts(w.finish(x))
    assert op_types(model) == ["Transpose", "Conv", "Transpose"]
    assert "its weights (1 float16) were cast to float32" in widen(model)
