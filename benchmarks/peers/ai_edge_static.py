"""ai-edge-quantizer's static int8 recipe, and the answers of its file.

Run by ``benchmarks/quantize.py`` in the tool's own environment. The tool wants a SignatureDef,
which models made by older converters lack: one is put in first, by the schema that comes with it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from job import measure, out_path, read_job, samples

KEY = "serving_default"


def with_signature(source: Path, target: Path) -> None:
    """Copy a .tflite, with a SignatureDef where it has none."""
    model = schema.ModelT.InitFromPackedBuf(source.read_bytes(), 0)
    if not model.signatureDefs:
        graph = model.subgraphs[0]

        def entry(tensor: int, name: str) -> Any:
            found = schema.TensorMapT()
            found.tensorIndex, found.name = tensor, name
            return found

        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = KEY, 0
        signature.inputs = [entry(t, f"input_{i}") for i, t in enumerate(graph.inputs)]
        signature.outputs = [entry(t, f"output_{i}") for i, t in enumerate(graph.outputs)]
        model.signatureDefs = [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    target.write_bytes(bytes(builder.Output()))


def answer(path: Path, x: np.ndarray) -> np.ndarray:
    """Scores float32 ``[n, classes]`` of a .tflite with float or int8 ends, one sample a run."""
    runner = Interpreter(str(path), num_threads=1)
    runner.allocate_tensors()
    source, target = runner.get_input_details()[0], runner.get_output_details()[0]
    rows = []
    for row in x:
        values = row[None].astype(np.float32)
        scale, zero = source["quantization"]
        if source["dtype"] != np.float32:
            limits = np.iinfo(source["dtype"])
            values = np.clip(np.round(values / scale) + zero, limits.min, limits.max)
        runner.set_tensor(source["index"], values.astype(source["dtype"]))
        runner.invoke()
        scores = runner.get_tensor(target["index"])[0]
        scale, zero = target["quantization"]
        if target["dtype"] != np.float32:
            scores = (scores.astype(np.float32) - zero) * scale
        rows.append(scores)
    return np.stack(rows)


def int8_share(path: Path) -> float:
    """Share of the multiply-accumulates whose input and weight are int8."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    names = {value: key for key, value in vars(schema.BuiltinOperator).items()}
    total = int8 = 0
    for graph in model.subgraphs:
        for op in graph.operators:
            code = model.operatorCodes[op.opcodeIndex]
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                continue
            source, weight = (graph.tensors[i] for i in op.inputs[:2])
            made = math.prod(graph.tensors[op.outputs[0]].shape[1:])
            shape = weight.shape[1:3] if name == "DEPTHWISE_CONV_2D" else weight.shape[1:]
            macs = made * math.prod(shape)
            total += macs
            if source.type == weight.type == schema.TensorType.INT8:
                int8 += macs
    return int8 / total


def main() -> None:
    job = read_job()
    if job["recipe"] == "answer":
        with np.load(job["samples"], allow_pickle=False) as archive:
            x = np.asarray(archive["x"], np.float32)
        path = Path(job["model"])
        np.savez(out_path(job), y=answer(path, x), share=int8_share(path))
        measure(lambda: None)
        return
    x = samples(job)
    signed = out_path(job).with_suffix(".signed.tflite")
    with_signature(Path(job["model"]), signed)
    runner = Interpreter(str(signed))
    key, found = next(iter(runner.get_signature_list().items()))
    name = found["inputs"][0]

    def work() -> None:
        tool = quantizer.Quantizer(str(signed))
        tool.load_quantization_recipe(recipe.static_wi8_ai8())
        calibrated = tool.calibrate({key: [{name: row[None]} for row in x]})
        out_path(job).unlink(missing_ok=True)
        tool.quantize(calibrated).export_model(job["out"])

    measure(work)


if __name__ == "__main__":
    main()
