"""Sequences, parts of tensors and resized images, written as int8 .tflite."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import CompileError
from compiler.tflite.audit import layers_of
from compiler.tflite.emit import emit_tflite
from compiler.tflite.read import read_tflite
from tests.tflite.test_emit import (
    CONV,
    WEIGHTS,
    Array,
    frames,
    kinds,
    native,
    noise_of,
    plan_for,
    random,
    run_float,
    run_int8,
)


def check(model: onnx.ModelProto, noise_max: float = 0.06) -> list[str]:
    """Emit, answer, compare with float; returns the operators."""
    onnx.checker.check_model(model, full_check=True)
    fresh = frames(model, 40, 2)
    plan = plan_for(model, np.concatenate([frames(model, 40, 1), fresh]))
    data = emit_tflite(plan)
    assert noise_of(run_int8(data, fresh), run_float(model, fresh)) < noise_max
    layers = layers_of(read_tflite("m", data))
    assert len(layers) == len(plan.layers)
    assert all(layer.int8 for layer in layers)
    return kinds(data)


def sequence_model(
    nodes: list[onnx.NodeProto], weights: dict[str, Array], out: list[int]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_network_on_sequences_is_written_with_image_kernels() -> None:
    model = sequence_model(
        [
            helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[2, 2], strides=[2]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "w2"], ["c2"], group=8, dilations=[2], pads=[4, 0]),
            helper.make_node("MaxPool", ["c2"], ["m"], kernel_shape=[2], strides=[2]),
            helper.make_node("Conv", ["m", "w3", "b3"], ["c3"]),
            helper.make_node("Relu", ["c3"], ["r3"]),
            helper.make_node("GlobalAveragePool", ["r3"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "w4"], ["y"]),
        ],
        {
            "w1": random(8, 4, 5), "b1": random(8), "w2": random(8, 1, 3),
            "w3": random(12, 8, 1), "b3": random(12), "w4": random(12, 5),
        },
        [1, 5],
    )  # fmt: skip
    found = check(model)
    # Layers hand images on to one another: only the ends of the network change their order.
    assert found.count("TRANSPOSE") <= 1
    assert found.count("CONV_2D") == 2


def test_sequences_between_layers_are_added_and_written_out_as_such() -> None:
    model = sequence_model(
        [
            helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "w2", "b1"], ["c2"], pads=[1, 1]),
            helper.make_node("Add", ["r1", "c2"], ["a"]),
            helper.make_node("Conv", ["a", "w3"], ["y"]),
        ],
        {"w1": random(6, 4, 3), "b1": random(6), "w2": random(6, 6, 3), "w3": random(3, 6, 1)},
        [1, 3, 40],
    )
    check(model)


def integers(*values: int) -> Array:
    return np.array(values, np.int64)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("middle", "extra", "channels", "size"),
    [
        ([helper.make_node("Slice", ["c", "s", "e", "a"], ["d"])],
         {"s": integers(2, 1), "e": integers(-1, 9), "a": integers(1, 3)}, 5, (12, 8)),
        ([helper.make_node("Slice", ["c", "s", "e", "a", "t"], ["d"])],
         {"s": integers(-12), "e": integers(1 << 40), "a": integers(2), "t": integers(2)},
         8, (6, 10)),
        ([helper.make_node("Split", ["c", "n"], ["u", "v"], axis=1),
          helper.make_node("Concat", ["v", "u"], ["d"], axis=1)],
         {"n": integers(3, 5)}, 8, (12, 10)),
        ([helper.make_node("Resize", ["c", "", "", "n"], ["d"], mode="linear")],
         {"n": integers(1, 8, 24, 15)}, 8, (24, 15)),
        ([helper.make_node("Resize", ["c", "", "f"], ["d"], mode="nearest",
                           coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
         {"f": np.array([1, 1, 2, 2], np.float32)}, 8, (24, 20)),
        ([helper.make_node("Resize", ["c", "", "f"], ["d"], mode="nearest")],
         {"f": np.array([1, 1, 2, 3], np.float32)}, 8, (24, 30)),
    ],
    ids=["slice", "slice with steps", "split", "bilinear", "nearest", "nearest, torch's default"],
)  # fmt: skip
def test_parts_and_resized_images_are_written(
    middle: list[onnx.NodeProto], extra: dict[str, Array], channels: int, size: tuple[int, int]
) -> None:
    last = helper.make_node("Conv", ["d", "w2"], ["y"])
    weights = WEIGHTS | extra | {"w2": random(3, channels, 1, 1)}
    check(native([CONV, *middle, last], weights, [1, 3, *size]))


def test_resize_that_no_kernel_has_is_refused_by_name() -> None:
    node = helper.make_node("Resize", ["c", "", "", "n"], ["y"], mode="cubic", name="up")
    model = native([CONV, node], WEIGHTS | {"n": integers(1, 8, 24, 20)}, [1, 8, 24, 20])
    with pytest.raises(CompileError, match=r"Resize 'Resize_1' \(cubic, half_pixel"):
        emit_tflite(plan_for(model, frames(model, 5, 1)))


@pytest.mark.parametrize("flat", [False, True])
def test_a_batch_norm_that_no_layer_takes_in_is_written(flat: bool) -> None:
    width = {f"{name}{end}": random(8) for name in ("s", "t", "m") for end in "ab"}
    spread = np.linspace(0.5, 2, 8, dtype=np.float32)
    # Behind an activation, as in networks whose blocks begin with a norm.
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("BatchNormalization", ["r1", "sa", "ta", "ma", "v"], ["n1"]),
        helper.make_node("Conv", ["n1", "w2"], ["c2"]),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Relu", ["f"], ["r2"]),
        helper.make_node("BatchNormalization", ["r2", "sb", "tb", "mb", "v"], ["n2"]),
        helper.make_node("Gemm", ["n2", "w3"], ["y"]),
    ]
    weights = {**width, "v": spread, "w1": random(8, 4, 3), "b1": random(8)}
    weights |= {"w2": random(8, 8, 1), "w3": random(8, 5)}
    if flat:  # the first norm's answer is an output of no image kernel
        nodes[4:6] = [helper.make_node("ReduceMean", ["c2"], ["f"], axes=[2], keepdims=0)]
    found = check(sequence_model(nodes, weights, [1, 5]))
    assert (found.count("MUL"), found.count("ADD")) == (2, 2)


def test_the_shape_that_an_exporter_computes_for_a_free_batch_is_not_needed() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["r", "wanted"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2"], ["y"]),
    ]
    weights = {"w1": random(8, 4, 3), "w2": random(8 * 38, 5), "zero": np.array(0)}
    weights |= {"first": np.array([0]), "rest": np.array([-1])}
    model = sequence_model(nodes, weights, [1, 5])
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    found = check(model)
    assert (found.count("CONV_2D"), found.count("FULLY_CONNECTED")) == (1, 1)
    assert not {"SHAPE", "GATHER", "CONCATENATION"} & set(found)
