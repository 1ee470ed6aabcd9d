"""Files that lie: cut short, bits flipped, offsets that meet, counts beyond reason."""

from __future__ import annotations

import time
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.errors import SourceError
from compiler.tflite import read
from compiler.tflite.read import read_tflite
from compiler.tflite.to_onnx import tflite_to_onnx
from tests.tflite.networks import NETWORKS
from tests.tflite.write import TfliteWriter

SAMPLES = [NETWORKS[name]() for name in ("mobilenet_v2", "ssd_heads", "resnet")]


def converts_or_refuses(data: bytes) -> bool:
    """Whether it converts; any error but ``SourceError`` passes through and fails the test."""
    try:
        model = tflite_to_onnx("damaged.tflite", data)
    except SourceError:
        return False
    assert isinstance(model, onnx.ModelProto)
    return True


@given(st.sampled_from(SAMPLES), st.floats(0, 0.98))
@settings(max_examples=150, deadline=None)
def test_truncated_file_is_refused(data: bytes, share: float) -> None:
    assert not converts_or_refuses(data[: int(len(data) * share)])


@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6),
)
@settings(max_examples=400, deadline=3000)
def test_changed_bytes_give_an_error_or_a_model(
    data: bytes, changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    converts_or_refuses(bytes(damaged))


@given(
    st.sampled_from(SAMPLES),
    st.integers(0, 1 << 18),
    st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**16, 8, 64]),
)
@settings(max_examples=400, deadline=3000)
def test_hostile_offsets_and_lengths_give_an_error_or_a_model(
    data: bytes, word: int, value: int
) -> None:
    damaged = bytearray(data)
    place = word % (len(damaged) // 4) * 4
    damaged[place : place + 4] = value.to_bytes(4, "little")
    converts_or_refuses(bytes(damaged))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_noise_behind_the_identifier_is_refused(noise: bytes) -> None:
    assert not converts_or_refuses(noise[:4].ljust(4, b"\0") + b"TFL3" + noise[4:])


def test_one_table_listed_many_times_is_refused_at_once() -> None:
    """20,000 operators that are one table with 50,000 operands: 300 KB that unfold to 8 GB."""
    builder = flatbuffers.Builder(1024)
    operands = builder.CreateNumpyVector(np.zeros(50_000, "int32"))
    schema.OperatorStart(builder)
    schema.OperatorAddInputs(builder, operands)
    operator = schema.OperatorEnd(builder)
    schema.SubGraphStartOperatorsVector(builder, 20_000)
    for _ in range(20_000):
        builder.PrependUOffsetTRelative(operator)
    operators = builder.EndVector()
    tensor_shape = builder.CreateNumpyVector(np.ones(2, "int32"))
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, tensor_shape)
    tensor = schema.TensorEnd(builder)
    schema.SubGraphStartTensorsVector(builder, 1)
    builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddOperators(builder, operators)
    schema.SubGraphAddTensors(builder, tensors)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, 1)
    builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.OperatorCodeStart(builder)
    code = schema.OperatorCodeEnd(builder)
    schema.ModelStartOperatorCodesVector(builder, 1)
    builder.PrependUOffsetTRelative(code)
    codes = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, graphs)
    schema.ModelAddOperatorCodes(builder, codes)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    started = time.monotonic()
    with pytest.raises(SourceError, match="add up to more than the file can hold"):
        tflite_to_onnx("bomb.tflite", bytes(builder.Output()))
    assert time.monotonic() - started < 2


def test_more_operators_than_the_ceiling_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "OPERATORS_MAX", 5)
    with pytest.raises(SourceError, match="at most 5 are read"):
        tflite_to_onnx("long.tflite", NETWORKS["mobilenet_v2"]())


def small(change: Any = None) -> bytes:
    w = TfliteWriter()
    x = w.input(1, 4, 4, 2)
    x = w.conv(x, w.weights(3, 3, 3, 2), w.weights(3), 1, 4, 4, 3)
    return w.finish(x, change=change)


def refused(data: bytes, *words: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        tflite_to_onnx("model.tflite", data)
    for word in ("model.tflite", *words):
        assert word in caught.value.message
    return caught.value


def test_another_file_is_named_for_what_it_is_not() -> None:
    refused(b"\x08\x07onnx-ish", "expected the identifier TFL3")
    refused(b"", "not a .tflite file")


def test_weight_that_is_not_a_number_is_named() -> None:
    w = TfliteWriter()
    x = w.input(1, 4, 4, 2)
    weights = w.constant([[[[float("nan"), 1.0]]]] * 2)
    x = w.conv(x, weights, w.weights(2), 1, 4, 4, 2)
    refused(w.finish(x), "'tensor_1' holds 2 NaN or infinite values (of 4)")


def test_int8_model_is_refused_with_its_first_int8_operator() -> None:
    w = TfliteWriter()
    x = w.input(1, 4)
    y = w.tensor(1, 4, dtype="int8")
    w.graph.tensors[y].quantization = schema.QuantizationParametersT()
    w.graph.tensors[y].quantization.scale = [0.1]
    w.graph.tensors[y].quantization.zeroPoint = [0]
    w.op("QUANTIZE", [x], y, table="QuantizeOptions")
    z = w.op("DEQUANTIZE", [y], w.tensor(1, 4), table="DequantizeOptions")
    error = refused(w.finish(z), "quantised already", "operator 0, QUANTIZE", "int8")
    assert "float model" in error.hint


def test_all_missing_operators_are_listed_with_their_places() -> None:
    w = TfliteWriter()
    x = w.input(1, 4, 4, 2)
    x = w.op("COS", [x], w.tensor(1, 4, 4, 2))
    x = w.op("RELU", [x], w.tensor(1, 4, 4, 2))
    x = w.op("COS", [x], w.tensor(1, 4, 4, 2))
    x = w.op("CUSTOM", [x], w.tensor(1, 4, 4, 2), custom="MyOp")
    refused(
        w.finish(x),
        "2 kinds of operators are not converted",
        "COS (operator 0, 2; makes 'tensor_1')",
        "CUSTOM MyOp (operator 3; makes 'tensor_4')",
    )


def test_missing_operator_that_no_output_needs_does_no_harm() -> None:
    w = TfliteWriter()
    x = w.input(1, 4)
    w.op("COS", [x], w.tensor(1, 4))
    assert converts_or_refuses(w.finish(w.op("RELU", [x], w.tensor(1, 4))))


def test_detection_post_processing_is_to_be_cut_off() -> None:
    w = TfliteWriter()
    x = w.input(1, 10, 4)
    x = w.op("CUSTOM", [x], w.tensor(1, 10, 4), custom="TFLite_Detection_PostProcess")
    assert "raw boxes and scores" in refused(w.finish(x), "TFLite_Detection_PostProcess").hint


def test_several_subgraphs_are_refused() -> None:
    refused(small(lambda model: model.subgraphs.append(model.subgraphs[0])), "one subgraph, got 2")


def test_open_image_size_is_refused() -> None:
    def leave_open(model: Any) -> None:
        model.subgraphs[0].tensors[0].shapeSignature = [-1, -1, 4, 2]

    assert "fixed input size" in refused(small(leave_open), "left open").hint


@pytest.mark.parametrize(
    ("field", "value"),
    [("strideH", 0), ("strideW", -1), ("dilationHFactor", 0), ("strideH", 2**31 - 1)],
)
def test_absurd_strides_are_damage(field: str, value: int) -> None:
    def change(model: Any) -> None:
        setattr(model.subgraphs[0].operators[0].builtinOptions, field, value)

    refused(small(change), "operator 0, CONV_2D")


def test_weights_of_another_rank_are_damage() -> None:
    w = TfliteWriter()
    x = w.input(1, 4, 4, 2)
    refused(
        w.finish(w.conv(x, w.weights(3, 2), w.weights(3), 1, 4, 4, 3)),
        "operator 0, CONV_2D",
        "expected rank 4, got shape [3, 2]",
    )


def test_operator_without_its_options_is_damage() -> None:
    w = TfliteWriter()
    x = w.input(1, 4, 4, 2)
    refused(w.finish(w.op("AVERAGE_POOL_2D", [x], w.tensor(1, 4, 4, 2))), "AVERAGE_POOL_2D")


def test_weights_shorter_than_their_shape_are_damage() -> None:
    def cut(model: Any) -> None:
        model.buffers[1].data = model.buffers[1].data[:-4]

    refused(small(cut), "holds 212 bytes")


def test_index_outside_the_tensors_is_damage() -> None:
    def point_outside(model: Any) -> None:
        model.subgraphs[0].operators[0].inputs[1] = 99

    refused(small(point_outside), "outside the 4 tensors")


def test_operators_in_a_circle_are_damage() -> None:
    w = TfliteWriter()
    x = w.input(1, 4)
    loop = w.tensor(1, 4)
    y = w.op("ADD", [x, loop], w.tensor(1, 4), table="AddOptions")
    w.op("RELU", [y], loop)
    refused(w.finish(loop), "used before it is made")


def test_state_between_frames_is_refused() -> None:
    def keep_state(model: Any) -> None:
        model.subgraphs[0].tensors[3].isVariable = True

    refused(small(keep_state), "a variable (state)")


def test_reader_copies_no_weights() -> None:
    data = NETWORKS["resnet"]()
    tensors = read_tflite("a", data).tensors
    assert all(t.data.base is not None for t in tensors if t.data is not None)
