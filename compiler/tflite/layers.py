"""Convolutions, dense layers and pools."""

from __future__ import annotations

from compiler.errors import SourceError
from compiler.tflite.graph import NCHW, NHWC, OnnxGraph
from compiler.tflite.read import ABSENT, TfliteOperator

SAME = 0
"""``Padding.SAME`` of the schema; the other one is VALID."""

SIZE_MAX = 1 << 24
"""Larger strides, kernels and images are damage, and would only overflow later."""

Pads = tuple[int, int, int, int]


def convert_conv(graph: OnnxGraph, op: TfliteOperator) -> None:
    """CONV_2D; weights ``[out, height, width, in / groups]``."""
    source, weights = op.inputs[0], op.inputs[1]
    out, height, width, inner = _four(graph, weights)
    channels = _four(graph, source)[3]
    if inner == 0 or channels % inner or out % (channels // inner):
        raise ValueError(f"{channels} channels do not fit weights for {inner}")
    _conv(graph, op, graph.weight(weights, (0, 3, 1, 2)), (height, width), channels // inner)


def convert_depthwise_conv(graph: OnnxGraph, op: TfliteOperator) -> None:
    """DEPTHWISE_CONV_2D; weights ``[1, height, width, channels * multiplier]``.

    Output channel ``c * multiplier + m`` comes from input channel ``c``, as in a grouped
    convolution of ONNX.
    """
    source, weights = op.inputs[0], op.inputs[1]
    one, height, width, out = _four(graph, weights)
    channels = _four(graph, source)[3]
    if one != 1 or channels == 0 or out % channels:
        raise ValueError(f"{channels} channels do not fit weights for {out}")
    _conv(graph, op, graph.weight(weights, (3, 0, 1, 2)), (height, width), channels)


def _conv(
    graph: OnnxGraph, op: TfliteOperator, weights: str, kernel: tuple[int, int], groups: int
) -> None:
    source = op.inputs[0]
    strides = _positive(op, "StrideH", "StrideW")
    dilations = _positive(op, "DilationHFactor", "DilationWFactor")
    pads = _pads(graph, op, source, kernel, strides, dilations)
    padding = _padding_before(graph, source)
    if padding is not None and pads == (0, 0, 0, 0):
        source, pads = padding
    inputs = [graph.value(source, NCHW), weights]
    if len(op.inputs) > 2 and op.inputs[2] != ABSENT:
        inputs.append(graph.weight(op.inputs[2], (0,)))
    graph.put(
        op.outputs[0],
        NCHW,
        "Conv",
        inputs,
        activation=op.options["FusedActivationFunction"],
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=groups,
    )


def convert_transpose_conv(graph: OnnxGraph, op: TfliteOperator) -> None:
    """TRANSPOSE_CONV; operands output shape, weights ``[out, height, width, in]``, input, bias.

    The file gives the output's size; what the kernel reaches beyond it is cropped, the smaller
    half first where padding is SAME, all of it behind where it is VALID.
    """
    weights, source = op.inputs[1], op.inputs[2]
    kernel = _four(graph, weights)[1:3]
    strides = _positive(op, "StrideH", "StrideW")
    before, after, missing = [], [], []
    for axis in (0, 1):
        size = _fixed(graph, source, axis + 1)
        wanted = _fixed(graph, op.outputs[0], axis + 1)
        reach = (size - 1) * strides[axis] + kernel[axis]
        crop = max(reach - wanted, 0)
        start = crop // 2 if op.options["Padding"] == SAME else 0
        before.append(start)
        after.append(crop - start)
        missing.append(max(wanted - reach, 0))
    inputs = [graph.value(source, NCHW), graph.weight(weights, (3, 0, 1, 2))]
    if len(op.inputs) > 3 and op.inputs[3] != ABSENT:
        inputs.append(graph.weight(op.inputs[3], (0,)))
    graph.put(
        op.outputs[0],
        NCHW,
        "ConvTranspose",
        inputs,
        activation=op.options.get("FusedActivationFunction", 0),
        kernel_shape=kernel,
        strides=strides,
        pads=(*before, *after),
        output_padding=missing,
    )


def convert_dense(graph: OnnxGraph, op: TfliteOperator) -> None:
    """FULLY_CONNECTED; weights ``[out, in]``; the input is flattened to rows of ``in``."""
    if op.options["WeightsFormat"] != 0:
        raise SourceError(
            f"{graph.model.file_name}: {op.sentence()}, has shuffled int8 weights",
            hint="give the float model that it was made from",
        )
    source, weights = op.inputs[0], op.inputs[1]
    out, width = graph.tensor(weights).shape
    has_bias = len(op.inputs) > 2 and op.inputs[2] != ABSENT
    activation = op.options["FusedActivationFunction"]
    if op.options["KeepNumDims"] and graph.rank(source) != 2:
        rows = graph.value(source, NHWC)
        matrix = graph.weight(weights, (1, 0))
        if not has_bias:
            graph.put(op.outputs[0], NHWC, "MatMul", [rows, matrix], activation=activation)
            return
        product = graph.step("MatMul", [rows, matrix])
        bias = graph.weight(op.inputs[2], (0,))
        graph.put(op.outputs[0], NHWC, "Add", [product, bias], activation=activation)
        return
    rows = graph.flat_value(source)
    if graph.rank(source) != 2:
        rows = graph.step("Reshape", [rows, graph.shape((-1, width))])
    # Computed weights stay a Gemm too; only constants can be int8.
    matrix = (
        graph.weight(weights, (0, 1))
        if graph.constant(weights) is not None
        else graph.value(weights, NHWC)
    )
    inputs = [rows, matrix]
    if has_bias:
        bias_shape = graph.tensor(op.inputs[2]).shape
        if bias_shape != (out,):
            raise ValueError(f"a bias of shape {list(bias_shape)} for {out} outputs")
        inputs.append(graph.weight(op.inputs[2], (0,)))
    graph.put(op.outputs[0], NHWC, "Gemm", inputs, activation=activation, transB=1)


def convert_batch_matmul(graph: OnnxGraph, op: TfliteOperator) -> None:
    """BATCH_MATMUL, either side transposed on demand."""
    sides = []
    for operand, flag in zip(op.inputs, ("AdjX", "AdjY"), strict=True):
        side = graph.value(operand, NHWC)
        if op.options.get(flag):
            order = list(range(graph.rank(operand)))
            order[-2:] = order[:-3:-1]
            side = graph.step("Transpose", [side], perm=order)
        sides.append(side)
    graph.put(op.outputs[0], NHWC, "MatMul", sides)


def convert_pool(graph: OnnxGraph, op: TfliteOperator) -> None:
    """AVERAGE_POOL_2D (padding is not counted) and MAX_POOL_2D."""
    source = op.inputs[0]
    kernel = _positive(op, "FilterHeight", "FilterWidth")
    strides = _positive(op, "StrideH", "StrideW")
    graph.put(
        op.outputs[0],
        NCHW,
        "AveragePool" if op.kind == "AVERAGE_POOL_2D" else "MaxPool",
        [graph.value(source, NCHW)],
        activation=op.options["FusedActivationFunction"],
        kernel_shape=kernel,
        strides=strides,
        pads=_pads(graph, op, source, kernel, strides, (1, 1)),
    )


def _four(graph: OnnxGraph, index: int) -> tuple[int, int, int, int]:
    shape = graph.tensor(index).shape
    if len(shape) != 4:
        raise ValueError(f"expected rank 4, got shape {list(shape)}")
    return shape[0], shape[1], shape[2], shape[3]


def _positive(op: TfliteOperator, *fields: str) -> tuple[int, int]:
    first, second = (int(op.options[field]) for field in fields)
    if not (1 <= first <= SIZE_MAX and 1 <= second <= SIZE_MAX):
        raise ValueError(f"{fields[0]} {first} and {fields[1]} {second}")
    return first, second


def _fixed(graph: OnnxGraph, index: int, axis: int) -> int:
    """The size of one axis of an image.

    Raises:
        SourceError: the file leaves it open.
        ValueError: absurd.
    """
    tensor = graph.tensor(index)
    if tensor.free[axis]:
        raise SourceError(
            f"{graph.model.file_name}: the height or width of tensor {tensor.name!r} is left open",
            hint="export the model with a fixed input size; only the batch axis may be free",
        )
    size = _four(graph, index)[axis]
    if not 1 <= size <= SIZE_MAX:
        raise ValueError(f"an image of shape {list(tensor.shape)}")
    return size


def _pads(
    graph: OnnxGraph,
    op: TfliteOperator,
    source: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
) -> Pads:
    """ONNX's (top, left, bottom, right) of the schema's SAME or VALID.

    SAME gives ceil(size / stride) outputs; an odd pad has its larger half behind.
    """
    if op.options["Padding"] != SAME:
        return 0, 0, 0, 0
    before, after = [], []
    for axis in (0, 1):
        size = _fixed(graph, source, axis + 1)
        steps = -(-size // strides[axis])
        reach = (steps - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        total = max(reach - size, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return before[0], before[1], after[0], after[1]


def _padding_before(graph: OnnxGraph, index: int) -> tuple[int, Pads] | None:
    """What a zero PAD that makes this image pads, and the image before it."""
    maker = graph.makers.get(index)
    if maker is None or maker.kind != "PAD" or graph.rank(index) != 4:
        return None
    amounts = graph.constant(maker.inputs[1])
    if amounts is None or amounts.shape != (4, 2) or amounts.min() < 0:
        return None
    (_, _), (top, bottom), (left, right), (_, _) = amounts.tolist()
    if any(amounts[axis].any() for axis in (0, 3)) or max(top, bottom, left, right) > SIZE_MAX:
        return None
    return maker.inputs[0], (top, left, bottom, right)
