"""Each operator against ai-edge-litert, behind a convolution (NCHW) and on the bare input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from compiler.tflite.to_onnx import CONVERTERS
from tests.tflite.agree import assert_converts
from tests.tflite.networks import NETWORKS
from tests.tflite.write import RELU, RELU6, SAME, VALID, TfliteWriter

Build = Callable[[TfliteWriter, int], list[int]]
"""Adds operators to ``[1, 6, 8, 4]`` and returns the outputs."""


def simple(kind: str, shape: tuple[int, ...] = (1, 6, 8, 4), **options: Any) -> Build:
    return lambda w, x: [w.op(kind, [x], w.tensor(*shape), **options)]


def positive(kind: str) -> Build:
    def build(w: TfliteWriter, x: int) -> list[int]:
        x = w.op("ABS", [x], w.tensor(1, 6, 8, 4))
        x = w.op("ADD", [x, w.constant(0.5)], w.tensor(1, 6, 8, 4), table="AddOptions")
        return [w.op(kind, [x], w.tensor(1, 6, 8, 4))]

    return build


def with_constant(
    kind: str, values: Any, shape: tuple[int, ...], dtype: str = "int32", **options: Any
) -> Build:
    return lambda w, x: [w.op(kind, [x, w.constant(values, dtype)], w.tensor(*shape), **options)]


def binary(kind: str, other: tuple[int, ...], **options: Any) -> Build:
    return lambda w, x: [w.op(kind, [x, w.weights(*other)], w.tensor(1, 6, 8, 4), **options)]


def power(w: TfliteWriter, x: int) -> list[int]:
    x = w.op("ABS", [x], w.tensor(1, 6, 8, 4))
    return [w.op("POW", [x, w.constant(1.5)], w.tensor(1, 6, 8, 4))]


def divide(w: TfliteWriter, x: int) -> list[int]:
    return [w.op("DIV", [x, w.constant([1, 2, 3, 4])], w.tensor(1, 6, 8, 4), table="DivOptions")]


def transpose_conv(padding: int, size: tuple[int, int], activation: int = 0) -> Build:
    def build(w: TfliteWriter, x: int) -> list[int]:
        shape = w.constant([1, *size, 3], "int32")
        return [
            w.op(
                "TRANSPOSE_CONV",
                [shape, w.weights(3, 3, 3, 4), x, w.weights(3)],
                w.tensor(1, *size, 3),
                table="TransposeConvOptions",
                padding=padding,
                strideH=2,
                strideW=2,
                fusedActivationFunction=activation,
            )
        ]

    return build


def depth_multiplier(w: TfliteWriter, x: int) -> list[int]:
    return [
        w.op(
            "DEPTHWISE_CONV_2D",
            [x, w.weights(1, 3, 3, 8), w.weights(8)],
            w.tensor(1, 4, 6, 8),
            table="DepthwiseConv2DOptions",
            padding=VALID,
            strideH=1,
            strideW=1,
            depthMultiplier=2,
        )
    ]


def grouped_conv(w: TfliteWriter, x: int) -> list[int]:
    return [w.conv(x, w.weights(6, 3, 3, 2), w.weights(6), 1, 6, 8, 6)]


def strided_conv(w: TfliteWriter, x: int) -> list[int]:
    return [w.conv(x, w.weights(2, 2, 2, 4), w.weights(2), 1, 2, 3, 2, stride=3, padding=SAME)]


def dense_on_rows(keep: bool) -> Build:
    def build(w: TfliteWriter, x: int) -> list[int]:
        shape = (1, 6, 8, 5) if keep else (48, 5)
        return [
            w.op(
                "FULLY_CONNECTED",
                [x, w.weights(5, 4), w.weights(5)],
                w.tensor(*shape),
                table="FullyConnectedOptions",
                keepNumDims=keep,
                fusedActivationFunction=RELU,
            )
        ]

    return build


def split_even(axis: int, shape: tuple[int, ...]) -> Build:
    def build(w: TfliteWriter, x: int) -> list[int]:
        outputs = [w.tensor(*shape) for _ in range(2)]
        w.op("SPLIT", [w.constant(axis, "int32"), x], *outputs, table="SplitOptions", numSplits=2)
        return outputs

    return build


def split_uneven(w: TfliteWriter, x: int) -> list[int]:
    outputs = [w.tensor(1, 6, 8, 1), w.tensor(1, 6, 8, 3)]
    operands = [x, w.constant([1, 3], "int32"), w.constant(3, "int32")]
    w.op("SPLIT_V", operands, *outputs, table="SplitVOptions", numSplits=2)
    return outputs


def join(axis: int, shape: tuple[int, ...]) -> Build:
    def build(w: TfliteWriter, x: int) -> list[int]:
        y = w.op("RELU", [x], w.tensor(1, 6, 8, 4))
        return [
            w.op("CONCATENATION", [x, y], w.tensor(*shape), table="ConcatenationOptions", axis=axis)
        ]

    return build


def pack_and_unpack(w: TfliteWriter, x: int) -> list[int]:
    rows = [w.tensor(1, 6, 4) for _ in range(8)]
    w.op("UNPACK", [x], *rows, table="UnpackOptions", axis=2, num=8)
    return [
        w.op("PACK", rows[::-1], w.tensor(1, 6, 4, 8), table="PackOptions", axis=3, valuesCount=8)
    ]


def gather(w: TfliteWriter, x: int) -> list[int]:
    return [
        w.op(
            "GATHER",
            [x, w.constant([2, 0], "int32")],
            w.tensor(1, 6, 2, 4),
            table="GatherOptions",
            axis=2,
        )
    ]


def slice_(w: TfliteWriter, x: int) -> list[int]:
    operands = [x, w.constant([0, 1, 0, 1], "int32"), w.constant([1, 4, -1, 2], "int32")]
    return [w.op("SLICE", operands, w.tensor(1, 4, 8, 2), table="SliceOptions")]


def strided_slice(w: TfliteWriter, x: int) -> list[int]:
    operands = [x, *(w.constant(v, "int32") for v in ([0, 1, 7, 1], [0, 6, 0, 2], [1, 2, -2, 1]))]
    return [
        w.op(
            "STRIDED_SLICE",
            operands,
            w.tensor(1, 3, 4),
            table="StridedSliceOptions",
            beginMask=1,
            endMask=0b101,
            shrinkAxisMask=0b1000,
        )
    ]


def pad_constant(w: TfliteWriter, x: int) -> list[int]:
    pads = w.constant([[0, 0], [1, 2], [0, 3], [1, 0]], "int32")
    return [w.op("PADV2", [x, pads, w.constant(-1.5)], w.tensor(1, 9, 11, 5), table="PadV2Options")]


def batch_matmul(w: TfliteWriter, x: int) -> list[int]:
    return [
        w.op(
            "BATCH_MATMUL",
            [x, w.weights(1, 6, 3, 4)],
            w.tensor(1, 6, 8, 3),
            table="BatchMatMulOptions",
            adjY=True,
        )
    ]


def cast_there_and_back(w: TfliteWriter, x: int) -> list[int]:
    y = w.op(
        "CAST",
        [x],
        w.tensor(1, 6, 8, 4, dtype="int32"),
        table="CastOptions",
        inDataType=0,
        outDataType=2,
    )
    return [
        w.op("CAST", [y], w.tensor(1, 6, 8, 4), table="CastOptions", inDataType=2, outDataType=0)
    ]


def squared_difference(w: TfliteWriter, x: int) -> list[int]:
    return [
        w.op(
            "SQUARED_DIFFERENCE",
            [x, w.weights(4)],
            w.tensor(1, 6, 8, 4),
            table="SquaredDifferenceOptions",
        )
    ]


def pool(kind: str, padding: int, shape: tuple[int, ...], activation: int = 0) -> Build:
    return simple(
        kind,
        shape,
        table="Pool2DOptions",
        padding=padding,
        strideH=2,
        strideW=3,
        filterHeight=3,
        filterWidth=2,
        fusedActivationFunction=activation,
    )


def resize(kind: str, size: tuple[int, int], **options: bool) -> Build:
    bilinear = kind == "RESIZE_BILINEAR"
    table = "ResizeBilinearOptions" if bilinear else "ResizeNearestNeighborOptions"
    return with_constant(kind, list(size), (1, *size, 4), table=table, **options)


def reduction(kind: str, axes: list[int], shape: tuple[int, ...]) -> Build:
    return with_constant(kind, axes, shape, table="ReducerOptions", keepDims=len(shape) == 4)


CASES: dict[str, Build] = {
    **{
        kind: simple(kind)
        for kind in (
            "ABS",
            "ELU",
            "EXP",
            "FLOOR",
            "HARD_SWISH",
            "LOGISTIC",
            "NEG",
            "RELU",
            "RELU6",
            "RELU_N1_TO_1",
            "TANH",
            "SQUARE",
            "LOG_SOFTMAX",
        )
    },
    **{kind: positive(kind) for kind in ("LOG", "SQRT", "RSQRT")},
    "SOFTMAX": simple("SOFTMAX", table="SoftmaxOptions", beta=1.0),
    "SOFTMAX beta": simple("SOFTMAX", table="SoftmaxOptions", beta=0.5),
    "LEAKY_RELU": simple("LEAKY_RELU", table="LeakyReluOptions", alpha=0.3),
    "PRELU": lambda w, x: [w.op("PRELU", [x, w.weights(1, 1, 4)], w.tensor(1, 6, 8, 4))],
    "L2_NORMALIZATION": simple("L2_NORMALIZATION", table="L2NormOptions"),
    "ADD channel": binary("ADD", (4,), table="AddOptions"),
    "ADD scalar": binary("ADD", (), table="AddOptions"),
    "ADD plane": binary("ADD", (6, 8, 1), table="AddOptions", fusedActivationFunction=RELU6),
    "SUB row": binary("SUB", (8, 1), table="SubOptions", fusedActivationFunction=2),
    "MUL full": binary("MUL", (1, 6, 8, 4), table="MulOptions", fusedActivationFunction=RELU),
    "MAXIMUM": binary("MAXIMUM", (4,), table="MaximumMinimumOptions"),
    "MINIMUM": binary("MINIMUM", (4,), table="MaximumMinimumOptions"),
    "SQUARED_DIFFERENCE": squared_difference,
    "POW": power,
    "DIV": divide,
    "CONV_2D groups": grouped_conv,
    "CONV_2D stride 3": strided_conv,
    "DEPTHWISE_CONV_2D multiplier": depth_multiplier,
    "TRANSPOSE_CONV same": transpose_conv(SAME, (12, 16)),
    "TRANSPOSE_CONV same odd": transpose_conv(SAME, (11, 15), RELU),
    "TRANSPOSE_CONV valid": transpose_conv(VALID, (13, 17)),
    "TRANSPOSE_CONV valid longer": transpose_conv(VALID, (14, 18)),
    "FULLY_CONNECTED rows": dense_on_rows(keep=False),
    "FULLY_CONNECTED kept": dense_on_rows(keep=True),
    "BATCH_MATMUL": batch_matmul,
    "AVERAGE_POOL_2D same": pool("AVERAGE_POOL_2D", SAME, (1, 3, 3, 4)),
    "AVERAGE_POOL_2D valid": pool("AVERAGE_POOL_2D", VALID, (1, 2, 3, 4), RELU),
    "MAX_POOL_2D same": pool("MAX_POOL_2D", SAME, (1, 3, 3, 4)),
    "MAX_POOL_2D valid": pool("MAX_POOL_2D", VALID, (1, 2, 3, 4)),
    "RESHAPE": with_constant("RESHAPE", [1, 6, 16, 2], (1, 6, 16, 2)),
    "SQUEEZE": simple("SQUEEZE", (6, 8, 4), table="SqueezeOptions", squeezeDims=[0]),
    "EXPAND_DIMS": with_constant("EXPAND_DIMS", 2, (1, 6, 1, 8, 4)),
    "TRANSPOSE": with_constant("TRANSPOSE", [0, 2, 3, 1], (1, 8, 4, 6), table="TransposeOptions"),
    "CONCATENATION channels": join(-1, (1, 6, 8, 8)),
    "CONCATENATION rows": join(1, (1, 12, 8, 4)),
    "PACK UNPACK": pack_and_unpack,
    "GATHER": gather,
    "SPLIT channels": split_even(3, (1, 6, 8, 2)),
    "SPLIT rows": split_even(-3, (1, 3, 8, 4)),
    "SPLIT_V": split_uneven,
    "SLICE": slice_,
    "STRIDED_SLICE": strided_slice,
    "PAD": with_constant(
        "PAD", [[0, 0], [1, 2], [0, 3], [0, 1]], (1, 9, 11, 5), table="PadOptions"
    ),
    "PADV2": pad_constant,
    "MIRROR_PAD reflect": with_constant(
        "MIRROR_PAD",
        [[0, 0], [2, 1], [0, 3], [0, 0]],
        (1, 9, 11, 4),
        table="MirrorPadOptions",
        mode=0,
    ),
    "MIRROR_PAD symmetric": with_constant(
        "MIRROR_PAD",
        [[0, 0], [1, 1], [0, 1], [0, 0]],
        (1, 8, 9, 4),
        table="MirrorPadOptions",
        mode=1,
    ),
    **{
        f"{kind} {mode} {size}": resize(kind, size, **flags)
        for kind in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
        for mode, flags in (
            ("plain", {}),
            ("centres", {"halfPixelCenters": True}),
            ("corners", {"alignCorners": True}),
        )
        for size in ((12, 16), (9, 5))
    },
    "MEAN plane": reduction("MEAN", [1, 2], (1, 1, 1, 4)),
    "MEAN plane dropped": reduction("MEAN", [1, 2], (1, 4)),
    "MEAN channels": reduction("MEAN", [-1], (1, 6, 8, 1)),
    "SUM": reduction("SUM", [2], (1, 6, 1, 4)),
    "REDUCE_MAX": reduction("REDUCE_MAX", [1, 3], (1, 8)),
    "REDUCE_MIN": reduction("REDUCE_MIN", [3], (1, 6, 8, 1)),
    "SPACE_TO_DEPTH": simple(
        "SPACE_TO_DEPTH", (1, 3, 4, 16), table="SpaceToDepthOptions", blockSize=2
    ),
    "DEPTH_TO_SPACE": simple(
        "DEPTH_TO_SPACE", (1, 12, 16, 1), table="DepthToSpaceOptions", blockSize=2
    ),
    "CAST": cast_there_and_back,
}


@pytest.mark.parametrize("behind_a_convolution", [False, True], ids=["input", "convolution"])
@pytest.mark.parametrize("name", CASES)
def test_operator_computes_the_same_in_both_runtimes(name: str, behind_a_convolution: bool) -> None:
    w = TfliteWriter()
    x = w.input(1, 6, 8, 4, batch_is_free=False)
    if behind_a_convolution:
        x = w.conv(x, w.weights(4, 3, 3, 4), w.weights(4), 1, 6, 8, 4)
        w.graph.tensors[x].shapeSignature = None
    assert_converts(w.finish(*CASES[name](w, x)))


def test_every_operator_that_is_converted_has_a_case() -> None:
    shown = {name.split()[0] for name in CASES} | {"UNPACK"}
    shown |= {"CONV_2D", "DEPTHWISE_CONV_2D"} if NETWORKS else set()
    assert shown == set(CONVERTERS)
