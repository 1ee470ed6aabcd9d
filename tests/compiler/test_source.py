"""A model file from a stranger: each fault is one clear sentence, before any work is done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compiler.errors import CompileError, SourceError
from compiler.graph.floatgraph import normalise, output_specs
from compiler.graph.source import load_source
from compiler.tasks import settle_task
from tests.compiler.models import SIDE, frames, matmul_model, small_cnn


@pytest.fixture
def model() -> ModelProto:
    return small_cnn()


Save = Callable[[ModelProto], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(model: ModelProto) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def refused(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        normalise(load_source(path))
    return caught.value.message


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no model file") as caught:
        load_source(tmp_path / "none.onnx")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("size", [0, 1, 7, 100, 2000])
def test_truncated_file_is_refused(save: Save, model: ModelProto, size: int) -> None:
    path = save(model)
    path.write_bytes(path.read_bytes()[:size])
    assert "not an ONNX file, or it is cut short" in refused(path)


def test_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("this is not a model\n" * 10)
    assert "not an ONNX file" in refused(path)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x80\x02}q\x00.", "a pickle, which is a program"),
        (b"PK\x03\x04" + bytes(60), "PyTorch checkpoint"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(60), "TensorFlow Lite"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    assert what in refused(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_or_load_but_never_crash(
    tmp_path: Path, data: st.DataObject
) -> None:
    good = bytearray(matmul_model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    path = tmp_path / "damaged.onnx"
    path.write_bytes(bytes(good[:cut] if data.draw(st.booleans()) else good))
    with contextlib.suppress(SourceError):
        normalise(load_source(path))


def test_custom_operators_are_listed(save: Save, model: ModelProto) -> None:
    model.graph.node[0].domain = "my.ops"
    model.graph.node[4].op_type = "Frobnicate"
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    message = refused(save(model))
    assert "my.ops.Transpose" in message
    assert "Frobnicate (opset 17)" in message


def test_a_cycle_is_named(save: Save, model: ModelProto) -> None:
    relu = next(node for node in model.graph.node if node.output[0] == "r1")
    relu.input[0] = "r2"
    message = refused(save(model))
    assert "cycle through" in message
    assert "Relu 'n/r1'" in message


def test_a_tensor_that_nobody_makes_is_named(save: Save, model: ModelProto) -> None:
    model.graph.node[3].input[0] = "ghost"
    assert "'ghost', which nothing in the graph makes" in refused(save(model))


def test_a_tensor_made_twice_is_named(save: Save, model: ModelProto) -> None:
    model.graph.node[6].output[0] = "r1"
    assert "'r1' is made twice" in refused(save(model))


def test_unsorted_nodes_are_sorted(save: Save, model: ModelProto) -> None:
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert len(normalise(load_source(save(model))).names) == len(nodes)


@pytest.mark.parametrize("op", ["QuantizeLinear", "DynamicQuantizeLinear"])
def test_an_int8_model_is_refused(save: Save, model: ModelProto, op: str) -> None:
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    model.graph.initializer.append(scale)
    if op == "QuantizeLinear":
        node = helper.make_node(op, ["r3", "s"], ["q"], name="quant")
    else:
        node = helper.make_node(op, ["r3"], ["q", "qs", "qz"], name="quant")
    model.graph.node.append(node)
    message = refused(save(model))
    assert "quantised already" in message
    assert op in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_named(save: Save, model: ModelProto, value: float) -> None:
    weights = numpy_helper.to_array(model.graph.initializer[1]).copy()
    weights.flat[3] = value
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(weights, "w1"))
    assert "weight 'w1' holds 1 NaN or infinite values" in refused(save(model))


def test_a_weight_shorter_than_its_shape_is_refused(save: Save, model: ModelProto) -> None:
    model.graph.initializer[1].raw_data = b"\0" * 8
    assert refused(save(model))


def test_several_outputs_are_kept_in_their_order(save: Save, model: ModelProto) -> None:
    model.graph.output.append(
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 32])
    )
    graph = normalise(load_source(save(model)))
    specs = output_specs(graph, np.zeros((1, SIDE, SIDE, 1), np.float32))
    assert [(spec.name, spec.shape) for spec in specs] == [
        ("scores", [None, 4]),
        ("features", [None, 32]),
    ]


def test_free_axes_are_asked_for_by_name(save: Save, model: ModelProto) -> None:
    axes = model.graph.input[0].type.tensor_type.shape.dim
    axes[1].dim_param, axes[2].dim_param = "height", "width"
    path = save(model)
    with pytest.raises(SourceError, match="static shapes") as caught:
        load_source(path)
    assert "--shape frames=1,N,N,1" in caught.value.hint
    graph = normalise(load_source(path, {"frames": (1, SIDE, SIDE, 1)}))
    assert graph.row_shape == (SIDE, SIDE, 1)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"image": (1, 2)}, "names 'image'"),
        ({"frames": (1, SIDE, SIDE)}, "does not fit"),
        ({"frames": (1, SIDE, SIDE, 3)}, "does not fit"),
    ],
)
def test_shapes_that_contradict_the_file_are_refused(
    save: Save, model: ModelProto, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        load_source(save(model), shapes)


def test_an_input_of_wide_integers_is_refused(save: Save, model: ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Cast", ["pixels"], ["frames"], to=1))
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("pixels", TensorProto.INT64, ["n", SIDE, SIDE, 1])
    )
    assert "expected a float32 input, but 'pixels' is INT64" in refused(save(model))


def test_a_free_image_size_is_refused(save: Save, model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    assert "static shape" in refused(save(model))


def test_an_old_opset_is_refused(save: Save) -> None:
    model = small_cnn()
    model.opset_import[0].version = 9
    assert "opset 9" in refused(save(model))


def test_a_model_with_nothing_to_quantise_is_refused(save: Save) -> None:
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert "nothing would run in int8" in refused(save(model))


def test_opset_11_is_raised_for_per_channel_scales(save: Save) -> None:
    graph = normalise(load_source(save(small_cnn(opset=11))))
    assert max(entry.version for entry in graph.prepared.opset_import) >= 13


def test_external_weights_are_loaded_and_belong_to_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        small_cnn(), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    before = load_source(path)
    assert before.size_bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[100] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert load_source(path).digest != before.digest
    (tmp_path / "weights.bin").unlink()
    assert "weights.bin" in refused(path)


def test_external_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(
        small_cnn(), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret.bin"
    path.write_bytes(model.SerializeToString())
    assert "cannot be loaded" in refused(path)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_fixed_batch_becomes_one(save: Save, batch: int) -> None:
    graph = normalise(load_source(save(small_cnn(batch=batch))))
    assert not graph.batch_is_free
    (spec,) = output_specs(graph, np.zeros((1, SIDE, SIDE, 1), np.float32))
    assert spec.shape == [1, 4]


@pytest.mark.parametrize("form", ["whole", "ends kept", "weights behind casts", "double"])
def test_other_float_widths_become_float32_and_it_is_said(save: Save, form: str) -> None:
    model = small_cnn()
    kind = TensorProto.DOUBLE if form == "double" else TensorProto.FLOAT16
    weights = {}
    for tensor in model.graph.initializer:
        half = numpy_helper.to_array(tensor).astype(np.float16)
        weights[tensor.name] = half.astype(np.float32)
        wide = half.astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    nodes = list(model.graph.node)
    if form == "weights behind casts":
        casts = [
            helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.FLOAT)
            for name in weights
        ]
        for node in nodes:
            node.input[:] = [f"{one}_wide" if one in weights else one for one in node.input]
        nodes = [*casts, *nodes]
    elif form == "ends kept":
        nodes[0].input[0], nodes[-1].output[0] = "frames_half", "scores_half"
        first = helper.make_node("Cast", ["frames"], ["frames_half"], to=kind)
        last = helper.make_node("Cast", ["scores_half"], ["scores"], to=TensorProto.FLOAT)
        nodes = [first, *nodes, last]
    else:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = kind
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    source = load_source(save(model))
    assert "were cast to float32" in source.notes[0]
    assert f"{len(weights)} {'double' if form == 'double' else 'float16'}" in source.notes[0]
    graph = normalise(source)
    assert not any(node.op_type == "Cast" for node in graph.prepared.graph.node)
    same = small_cnn()
    for tensor in same.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    x = frames(8, 0)[0]
    found, expected = (
        ort.InferenceSession(one.SerializeToString()).run(None, {"frames": x})[0]
        for one in (graph.model, same)
    )
    assert np.array_equal(found, expected)
    assert not load_source(save(small_cnn())).notes


def test_an_integer_input_that_is_cast_at_once_becomes_float32(save: Save) -> None:
    model = small_cnn(opset=19)
    (value,) = model.graph.input
    value.type.tensor_type.elem_type = TensorProto.UINT8
    cast = helper.make_node("Cast", ["frames"], ["wide"], saturate=1, to=TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    model.graph.node[1].input[0] = "wide"
    source = load_source(save(model))
    assert "casts its input 'frames' (uint8) to float32" in source.notes[0]
    graph = normalise(source)
    x = np.rint(frames(8, 0)[0])
    found, expected = (
        ort.InferenceSession(one.SerializeToString()).run(None, {"frames": given})[0]
        for one, given in ((graph.model, x), (model, x.astype(np.uint8)))
    )
    assert np.array_equal(found, expected)


def test_a_batch_that_the_graph_insists_on_is_named(save: Save) -> None:
    model = small_cnn(batch=8)
    shape = numpy_helper.from_array(np.array([8, -1]), "eight")
    model.graph.initializer.append(shape)
    (flatten,) = (node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    flatten.input.append("eight")
    with pytest.raises(SourceError, match="cannot run this model") as caught:
        normalise(load_source(save(model)))
    assert "the file fixes the batch at 8" in caught.value.hint


def test_one_score_classifies_where_labels_are_two_classes(save: Save, model: ModelProto) -> None:
    weights = {t.name: t for t in model.graph.initializer}
    for name in ("w4", "b4"):
        value = numpy_helper.to_array(weights[name])[..., :1]
        weights[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    graph = normalise(load_source(save(model)))
    specs = output_specs(graph, np.zeros((1, SIDE, SIDE, 1), np.float32))
    assert settle_task("classification", specs, None) == "classification"
    assert settle_task(None, specs, np.array([0, 1, 0])) == "classification"
    assert settle_task(None, specs, np.array([[0.0], [1.0]]), sigmoid=True) == "classification"
    for y in (np.array([0, 1, 2]), np.array([[0.0], [1.0]]), np.array([0.0, 0.5]), None):
        with pytest.raises(CompileError, match="cannot tell what the model is for"):
            settle_task(None, specs, y)


def test_inner_names_become_short_and_source_names_are_kept(save: Save) -> None:
    graph = normalise(load_source(save(small_cnn())))
    assert graph.names["Conv_2"] == "n/c1"
    assert {v.name for v in graph.model.graph.input} == {"frames"}
    assert {v.name for v in graph.model.graph.output} == {"scores"}
    inner = {t.name for t in graph.model.graph.initializer}
    assert all(len(name) < 5 for name in inner)
