"""The int8 model in float arithmetic, with grids that can be changed without loading it again.

The file of a plan is run with the runtime's int8 kernels switched off, many samples at a time:
every QuantizeLinear rounds, every DequantizeLinear multiplies, and the layers between them run in
float. Scales and zero points of activations are inputs of the session, so trying another range
costs one run. What is found this way is confirmed by the real kernels before it is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

from compiler.emit.onnx_qdq import emit_onnx
from compiler.errors import CompileError
from compiler.graph.feeds import given_to
from compiler.graph.floatgraph import first_line
from compiler.plan.plan import Grid, Plan
from edge_contract.model import Int8Scheme
from edge_runtime.onnx_session import session_options
from edge_runtime.tensors import Tensors

Array = npt.NDArray[np.float32]


_BATCH_MAX = 32
_BATCH_MACS = 400_000_000


class Simulation:
    """A plan under test.

    Args:
        plan: what to simulate.
        outputs: tensors of ``plan.model`` to hand out. One with a grid is handed out as it is
            before rounding where a layer makes it, so that errors of the layer show alone.
        batch: samples a run; 1 where the model's batch axis is fixed.
        rounded: hand them out as the next layer reads them instead.
    """

    def __init__(
        self, plan: Plan, outputs: Sequence[str], batch: int, *, rounded: bool = False
    ) -> None:
        scheme: Int8Scheme = "s8s8-symmetric" if plan.activations == "symmetric" else "s8s8"
        model = onnx.load_model_from_string(emit_onnx(plan, scheme))
        self._given = given_to(model.graph)
        self._batch = batch
        self._grids = _open_grids(model)
        self._biases = _open_biases(model, plan)
        made = {name for node in model.graph.node for name in node.output}
        self._outputs = {n: f"{n}_r" if f"{n}_r" in made and not rounded else n for n in outputs}
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in self._outputs.values())
        self._session = open_session(model)

    def run(
        self,
        x: Array,
        grids: Mapping[str, Grid],
        biases: Mapping[str, Array] | None = None,
        only: str | None = None,
    ) -> list[Array]:
        """Samples ``[n, ...]`` -> the outputs ``[n, ...]``.

        Args:
            x: model inputs.
            grids: the activations' grids.
            biases: by layer, float32 ``[out]``; the plan's where they are not there.
            only: hand out this one of the outputs.
        """
        outputs = list(self._outputs.values()) if only is None else [self._outputs[only]]
        feeds: dict[str, npt.NDArray[np.generic]] = {
            f"{node}_b": (biases or {}).get(node, bias) for node, bias in self._biases.items()
        }
        for name in self._grids:
            grid = grids[name]
            feeds[f"{name}_scale"] = np.array(grid.scale, np.float32)
            feeds[f"{name}_zero"] = np.array(grid.zero_point, np.int8)
        return run_batches(self._session, outputs, self._given, x, self._batch, feeds)


def batch_for(macs: int) -> int:
    """Samples a run for a model of ``macs``: its tensors' memory grows about with them."""
    return int(min(max(_BATCH_MACS // max(macs, 1), 1), _BATCH_MAX))


def open_session(model: ModelProto) -> ort.InferenceSession:
    """A session of ``model`` in which no layer runs in int8.

    Raises:
        CompileError: the runtime refuses it.
    """
    options = session_options("float32")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    # onnxruntime raises a family of types without a common base, RuntimeError among them.
    except Exception as error:
        raise CompileError(
            f"onnxruntime cannot simulate the int8 model: {first_line(error)}"
        ) from error


def run_batches(
    session: ort.InferenceSession,
    outputs: Sequence[str],
    given: Tensors,
    x: Array,
    batch: int,
    feeds: Mapping[str, npt.NDArray[np.generic]],
) -> list[Array]:
    """Run ``x`` in batches and join what comes out.

    Raises:
        CompileError: the runtime fails.
    """
    parts: list[list[Array]] = []
    for start in range(0, len(x), batch):
        try:
            parts.append(
                session.run(list(outputs), {**given.split(x[start : start + batch]), **feeds})
            )
        # As above: the runtime's exceptions have no common base.
        except Exception as error:
            raise CompileError(f"the simulated model fails: {first_line(error)}") from error
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def _open_grids(model: ModelProto) -> list[str]:
    """Turn every activation's scale and zero point into inputs; return the tensors' names."""
    found: list[str] = []
    used: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        tensor = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        if not tensor.endswith("_q"):
            continue
        name = tensor.removesuffix("_q")
        node.input[1], node.input[2] = f"{name}_scale", f"{name}_zero"
        if name not in used:
            used.add(name)
            found.append(name)
            model.graph.input.append(
                helper.make_tensor_value_info(f"{name}_scale", TensorProto.FLOAT, [])
            )
            model.graph.input.append(
                helper.make_tensor_value_info(f"{name}_zero", TensorProto.INT8, [])
            )
    return found


def _open_biases(model: ModelProto, plan: Plan) -> dict[str, Array]:
    """Turn every layer's bias into an input; return the plan's values by layer."""
    found: dict[str, Array] = {}
    written = {node.name: node for node in model.graph.node if node.name}
    makers = {output: node for node in model.graph.node for output in node.output}
    for name, layer in plan.layers.items():
        if layer.bias_float is None:
            continue
        found[name] = layer.bias_float
        node = written[name]
        if len(node.input) > 2:
            maker = makers.get(node.input[2])
            if maker is not None:
                model.graph.node.remove(maker)
            node.input[2] = f"{name}_b"
        else:
            add = next(n for n in model.graph.node if node.output[0] in n.input)
            add.input[1] = f"{name}_b"
        model.graph.input.append(
            helper.make_tensor_value_info(f"{name}_b", TensorProto.FLOAT, [len(layer.bias_float)])
        )
    return found
