"""One-dimensional convolutions and pools as two-dimensional ones of height 1.

TensorFlow Lite has image kernels only. A sequence ``[n, channels, length]`` becomes an image
``[n, channels, 1, length]``; no element moves and no number changes. Where one such layer follows
another, the image is handed on as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from compiler.plan.plan import LayerPlan, Plan

LIFTED_OPS = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool")
_AXES = "lifted_axes"
_HEIGHT = 2
"""The axis that is put in."""


def lift_sequences(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
    """The same plan with every layer on a sequence made one on an image.

    Args:
        shapes: every tensor of the plan's graph -> its static shape.
    """
    lifted = {node.name for node in plan.model.graph.node if _is_sequence(node, shapes)}
    return _Lift(plan, lifted).plan() if lifted else plan


def _is_sequence(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return node.op_type in LIFTED_OPS and len(shapes[node.input[0]]) == 3


class _Lift:
    def __init__(self, plan: Plan, lifted: set[str]) -> None:
        self._plan = plan
        self._lifted = lifted
        self._weights = {tensor.name: tensor for tensor in plan.model.graph.initializer}
        self._behind = {
            node.input[0]: node.output[0]
            for node in plan.model.graph.node
            if node.name in plan.absorbed
        }
        self._nodes: list[NodeProto] = []
        self._images: dict[str, str] = {}
        self._grids = dict(plan.grids)
        self._layers = dict(plan.layers)
        self._passing = set(plan.passing)

    def plan(self) -> Plan:
        model = ModelProto.FromString(self._plan.model.SerializeToString())
        for node in model.graph.node:
            if node.name in self._lifted:
                self._lift(node)
            else:
                self._nodes.append(NodeProto.FromString(node.SerializeToString()))
        axes = numpy_helper.from_array(np.array([_HEIGHT], np.int64), _AXES)
        outputs = {value.name for value in model.graph.output}
        nodes = _needed(self._nodes, outputs)
        del model.graph.node[:]
        del model.graph.initializer[:]
        del model.graph.value_info[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend([*self._weights.values(), axes])
        return replace(
            self._plan,
            model=model,
            grids=self._grids,
            layers=self._layers,
            passing=frozenset(self._passing),
        )

    def _lift(self, node: NodeProto) -> None:
        int8 = node.name in self._layers or node.name in self._passing
        source, made = node.input[0], node.output[0]
        copy = NodeProto.FromString(node.SerializeToString())
        copy.input[0] = self._image_of(source, int8)
        copy.output[0] = image = f"{made}_image"
        if node.op_type == "Conv":
            copy.input[1] = self._lift_weight(node.input[1])
        del copy.attribute[:]
        copy.attribute.extend(helper.make_attribute(*one) for one in _attributes(node))
        self._nodes.append(copy)
        self._add("Squeeze", image, made, int8)
        written = made
        while written in self._behind:
            written = self._behind[written]
        self._images |= {made: image, written: image}
        if int8:
            self._grids[image] = self._grids[written]
        if node.name in self._layers:
            self._layers[node.name] = _lifted(self._layers[node.name], copy.input[0], image)

    def _image_of(self, source: str, int8: bool) -> str:
        if source not in self._images:
            self._images[source] = f"{source}_image"
            if source in self._grids:
                self._grids[f"{source}_image"] = self._grids[source]
            self._add("Unsqueeze", source, f"{source}_image", int8)
        return self._images[source]

    def _add(self, op: str, source: str, made: str, int8: bool) -> None:
        name = f"{op}_{made}"
        self._nodes.append(helper.make_node(op, [source, _AXES], [made], name=name))
        if int8:
            self._passing.add(name)

    def _lift_weight(self, name: str) -> str:
        lifted = f"{name}_image"
        values = numpy_helper.to_array(self._weights[name])
        if values.ndim == 3:
            raised = np.expand_dims(values, _HEIGHT)
            self._weights[lifted] = numpy_helper.from_array(raised, lifted)
        return lifted


def _lifted(layer: LayerPlan, source: str, image: str) -> LayerPlan:
    weight = layer.weight
    if weight is not None:
        weight = replace(weight, values=np.expand_dims(weight.values, _HEIGHT))
    return replace(layer, inputs=(source,), output=image, weight=weight)


def _attributes(node: NodeProto) -> list[tuple[str, object]]:
    """The node's attributes, with those that are given an axis given for the height as well."""
    found: list[tuple[str, object]] = []
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.name in ("kernel_shape", "strides", "dilations"):
            value = [1, *value]
        elif attribute.name == "pads":
            value = [0, value[0], 0, value[1]]
        found.append((attribute.name, value))
    return found


def _needed(nodes: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """The nodes that lead to ``outputs``: a sequence that nothing reads need not be made."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if any(name in wanted for name in node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]
