"""ONNX files from plans, in QDQ form: each int8 tensor is a QuantizeLinear, DequantizeLinear pair.

Three schemes, one for each runtime that reads them:

- ``s8s8`` (``arm-onnx``): int8 activations; a Relu whose work saturation does is left out.
- ``u8s8`` (``x86-onnx``): the same integers with 128 added to activations, for x86-64's kernels.
- ``s8s8-symmetric``: zero points 0, Relu kept between two pairs of one scale, biases in float (that
  of a Gemm in an Add of its own), and pairs on the inputs of residual additions: TensorRT's wishes.

A Gemm or MatMul whose result no int8 node reads hands out its accumulators in float: scores are
not rounded to 256 values for nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compiler.plan.plan import Activations, Grid, LayerPlan, Plan
from edge_contract.model import Int8Scheme


def activations_for(scheme: Int8Scheme) -> Activations:
    """The kind of plan that ``scheme`` is written from."""
    return "symmetric" if scheme == "s8s8-symmetric" else "asymmetric"


def emit_onnx(plan: Plan, scheme: Int8Scheme) -> bytes:
    """The plan as deterministic ONNX bytes.

    Args:
        plan: an asymmetric plan for ``s8s8`` and ``u8s8``, a symmetric one for
            ``s8s8-symmetric``.

    Raises:
        ValueError: a plan of the other kind.
    """
    if plan.activations != activations_for(scheme):
        raise ValueError(f"a plan with {plan.activations} activations cannot become {scheme}")
    data: bytes = _Writer(plan, scheme).model().SerializeToString(deterministic=True)
    return data


def scale_cache(plan: Plan) -> bytes:
    """Activation scales in the text form of TensorRT's calibration cache.

    A line a tensor: its name and the scale as the big-endian hexadecimal of a float32, sorted by
    name. Tensors are named as in the file that ``emit_onnx`` makes of the plan.

    Raises:
        ValueError: the plan's activations are not symmetric.
    """
    if plan.activations != "symmetric":
        raise ValueError("TensorRT's cache holds scales only; expected symmetric activations")
    lines = ["TRT-8501-EntropyCalibration2"]
    for name in sorted(plan.grids):
        bits = np.array(plan.grids[name].scale, ">f4").tobytes().hex()
        lines.append(f"{name}: {bits}")
    return ("\n".join(lines) + "\n").encode()


class _Writer:
    def __init__(self, plan: Plan, scheme: Int8Scheme) -> None:
        self._plan = plan
        self._scheme = scheme
        self._float_tensors = {t.name: t for t in plan.model.graph.initializer}
        self._nodes: list[NodeProto] = []
        self._stored: dict[bytes, str] = {}
        self._tensors: list[TensorProto] = []
        self._renamed: dict[str, str] = {}
        self._behind = _written_as(plan)
        self._raw = _kept_raw(plan)

    def model(self) -> ModelProto:
        graph = self._plan.model.graph
        for value in graph.input:
            if value.name in self._plan.grids:
                self._renamed[value.name] = self._pair(value.name, value.name, f"{value.name}_d")
        for node in graph.node:
            if node.name not in self._plan.absorbed:
                self._node(node)
        done = ModelProto()
        done.CopyFrom(self._plan.model)
        del done.graph.node[:]
        del done.graph.initializer[:]
        # Recorded shapes weigh more than they help: the runtime infers them again.
        del done.graph.value_info[:]
        del done.metadata_props[:]
        done.graph.node.extend(self._nodes)
        done.producer_name, done.producer_version = "wherry", ""
        used = {name for node in self._nodes for name in node.input}
        used |= {value.name for value in graph.output}
        done.graph.initializer.extend(t for n, t in self._float_tensors.items() if n in used)
        done.graph.initializer.extend(self._tensors)
        return done

    def _node(self, node: NodeProto) -> None:
        copy = NodeProto.FromString(node.SerializeToString())
        layer = self._plan.layers.get(node.name)
        copy.input[:] = [self._renamed.get(name, name) for name in node.input]
        if layer is not None and layer.weight is not None:
            copy.input[1] = self._weight(layer)
            if layer.bias is not None:
                copy.input[2] = self._bias(layer, node.input[2])
        if node.name in self._plan.left_float and node.input[0] in self._plan.grids:
            copy.input[0] = self._fence(copy.input[0], node.name)
        outputs = [self._behind.get(name, name) for name in node.output]
        pairs: list[tuple[str, str]] = []
        for place, name in enumerate(outputs):
            if name in self._plan.grids and name not in self._raw:
                pairs.append((f"{name}_r", name))
                outputs[place] = f"{name}_r"
        copy.output[:] = outputs
        apart = layer is not None and layer.op == "Gemm" and layer.bias is not None
        if apart and self._scheme == "s8s8-symmetric":
            self._gemm_and_add(copy)
        else:
            self._nodes.append(copy)
        for made, name in pairs:
            self._pair(name, made, name)

    def _fence(self, tensor: str, node: str) -> str:
        """A float copy of a tensor, between its pair and a layer that is to stay float.

        onnxruntime rounds the float weights of a layer that it finds between two pairs. An
        operator that changes nothing, and that it does not see through, keeps it from that.
        """
        greatest = self._store("f", np.array(np.finfo(np.float32).max, np.float32))
        self._nodes.append(helper.make_node("Min", [tensor, greatest], [f"{node}_f"]))
        return f"{node}_f"

    def _gemm_and_add(self, gemm: NodeProto) -> None:
        """A Gemm, and its bias after it: with a bias in float inside, no runtime runs it in int8.

        MatMul and Add would say the same, but onnxruntime joins these again.
        """
        (target,) = gemm.output
        bias = gemm.input.pop()
        gemm.output[:] = [f"{target}_p"]
        self._nodes.append(gemm)
        self._nodes.append(helper.make_node("Add", [f"{target}_p", bias], [target]))

    def _pair(self, tensor: str, source: str, target: str) -> str:
        grid = self._plan.grids[tensor]
        scale, zero_point = self._grid(grid)
        between = f"{tensor}_q"
        self._nodes.append(
            helper.make_node("QuantizeLinear", [source, scale, zero_point], [between])
        )
        self._nodes.append(
            helper.make_node("DequantizeLinear", [between, scale, zero_point], [target])
        )
        return target

    def _grid(self, grid: Grid) -> tuple[str, str]:
        scale = self._store("s", np.array(grid.scale, np.float32))
        if self._scheme == "u8s8":
            return scale, self._store("z", np.array(grid.zero_point + 128, np.uint8))
        return scale, self._store("z", np.array(grid.zero_point, np.int8))

    def _weight(self, layer: LayerPlan) -> str:
        assert layer.weight is not None
        weight = layer.weight
        return self._constant(layer.node, "w", weight.values, weight.scales, weight.axis)

    def _bias(self, layer: LayerPlan, original: str) -> str:
        assert layer.weight is not None
        assert layer.bias is not None
        if self._scheme == "s8s8-symmetric":
            return original
        scales = np.float32(self._plan.grids[layer.inputs[0]].scale) * layer.weight.scales
        return self._constant(layer.node, "b", layer.bias, scales, 0)

    def _constant(
        self,
        node: str,
        kind: str,
        values: npt.NDArray[np.generic],
        scales: npt.NDArray[np.float32],
        axis: int,
    ) -> str:
        target = f"{node}_{kind}"
        zero_points = np.zeros(scales.shape, values.dtype)
        names = [self._store("q", values), self._store("s", scales), self._store("z", zero_points)]
        node_proto = helper.make_node("DequantizeLinear", names, [target])
        if axis != 1:
            node_proto.attribute.append(helper.make_attribute("axis", axis))
        self._nodes.append(node_proto)
        return target

    def _store(self, prefix: str, values: npt.NDArray[np.generic]) -> str:
        """An initializer of these values; equal ones are stored once."""
        key = f"{values.dtype}{values.shape}".encode() + values.tobytes()
        if key not in self._stored:
            name = f"{prefix}_{len(self._stored)}"
            self._stored[key] = name
            self._tensors.append(numpy_helper.from_array(values, name))
        return self._stored[key]


def _written_as(plan: Plan) -> dict[str, str]:
    """Output of a node -> the tensor behind the absorbed nodes after it."""
    found: dict[str, str] = {}
    for node in reversed(plan.model.graph.node):
        if node.name in plan.absorbed:
            found[node.input[0]] = found.get(node.output[0], node.output[0])
    return found


def _kept_raw(plan: Plan) -> set[str]:
    """Tensors with a grid that are written in float all the same."""
    read: set[str] = set()
    for node in plan.model.graph.node:
        if node.name in plan.layers or node.name in plan.passing:
            read |= set(node.input)
    return {
        layer.output
        for layer in plan.layers.values()
        if layer.op != "Conv" and not layer.absorbed and layer.output not in read
    }
