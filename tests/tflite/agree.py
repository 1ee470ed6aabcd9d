"""Run a .tflite file in ai-edge-litert and its conversion in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from ai_edge_litert.interpreter import Interpreter

from compiler.tflite.to_onnx import tflite_to_onnx

Array = npt.NDArray[Any]


def run_tflite(data: bytes, inputs: list[Array]) -> list[Array]:
    interpreter = Interpreter(model_content=data, num_threads=1)
    for detail, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.resize_tensor_input(detail["index"], values.shape)
    interpreter.allocate_tensors()
    for detail, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], values)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def run_onnx(model: onnx.ModelProto, inputs: list[Array]) -> list[Array]:
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_inputs()]
    outputs: list[Array] = session.run(None, dict(zip(names, inputs, strict=True)))
    return outputs


def assert_converts(data: bytes, *, batch: int = 1, seed: int = 5) -> onnx.ModelProto:
    """Both runtimes give the same within 1e-4 on random inputs; returns the conversion."""
    model = tflite_to_onnx("test.tflite", data)
    rng = np.random.default_rng(seed)
    inputs = []
    for value in model.graph.input:
        sizes = [axis.dim_value or batch for axis in value.type.tensor_type.shape.dim]
        inputs.append(rng.uniform(-2, 2, sizes).astype(np.float32))
    expected = run_tflite(data, inputs)
    actual = run_onnx(model, inputs)
    assert [a.shape for a in actual] == [e.shape for e in expected]
    for one, other in zip(actual, expected, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)
    return model


def op_types(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]
