"""The second output of exported scikit-learn classifiers: a label, which says less than scores.

``skl2onnx`` writes two outputs, ``label`` (or ``output_label``) and ``probabilities``. The device
names the class by its scores, so the label and the nodes that only it needs are left out.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto

_LABEL_NAMES = ("label", "output_label")
_LABEL_TYPES = (TensorProto.INT64, TensorProto.STRING)


def drop_label_output(model: ModelProto) -> bool:
    """Leave out a scikit-learn label beside one float output; say whether there was one.

    Args:
        model: changed in place.
    """
    graph = model.graph
    labels = [
        value
        for value in graph.output
        if value.name in _LABEL_NAMES and value.type.tensor_type.elem_type in _LABEL_TYPES
    ]
    if len(graph.output) != 2 or len(labels) != 1:
        return False
    graph.output.remove(labels[0])
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    # Tables of class names go with the nodes that read them.
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    if len(weights) < len(graph.initializer):
        copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in weights]
        del graph.initializer[:]
        graph.initializer.extend(copies)
    return True
