"""Which options of which operator are read from a .tflite file.

Scalars are named as in the schema's accessors; names in ``VECTORS`` are lists of int32.
"""

from __future__ import annotations

_CONV = ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor")
_POOL = ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth")
_FUSED = "FusedActivationFunction"

VECTORS = frozenset({"NewShape", "SqueezeDims"})

OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": ("Conv2DOptions", (*_CONV, _FUSED)),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*_CONV, _FUSED)),
    "TRANSPOSE_CONV": ("TransposeConvOptions", ("Padding", "StrideH", "StrideW", _FUSED)),
    "FULLY_CONNECTED": ("FullyConnectedOptions", (_FUSED, "WeightsFormat", "KeepNumDims")),
    "BATCH_MATMUL": ("BatchMatMulOptions", ("AdjX", "AdjY")),
    "AVERAGE_POOL_2D": ("Pool2DOptions", (*_POOL, _FUSED)),
    "MAX_POOL_2D": ("Pool2DOptions", (*_POOL, _FUSED)),
    "MEAN": ("ReducerOptions", ("KeepDims",)),
    "SUM": ("ReducerOptions", ("KeepDims",)),
    "REDUCE_MAX": ("ReducerOptions", ("KeepDims",)),
    "REDUCE_MIN": ("ReducerOptions", ("KeepDims",)),
    "ADD": ("AddOptions", (_FUSED,)),
    "SUB": ("SubOptions", (_FUSED,)),
    "MUL": ("MulOptions", (_FUSED,)),
    "DIV": ("DivOptions", (_FUSED,)),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
    "LEAKY_RELU": ("LeakyReluOptions", ("Alpha",)),
    "L2_NORMALIZATION": ("L2NormOptions", (_FUSED,)),
    "RESHAPE": ("ReshapeOptions", ("NewShape",)),
    "SQUEEZE": ("SqueezeOptions", ("SqueezeDims",)),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", _FUSED)),
    "PACK": ("PackOptions", ("Axis", "ValuesCount")),
    "UNPACK": ("UnpackOptions", ("Axis", "Num")),
    "GATHER": ("GatherOptions", ("Axis", "BatchDims")),
    "SPLIT": ("SplitOptions", ("NumSplits",)),
    "SPLIT_V": ("SplitVOptions", ("NumSplits",)),
    "STRIDED_SLICE": (
        "StridedSliceOptions",
        ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask"),
    ),
    "MIRROR_PAD": ("MirrorPadOptions", ("Mode",)),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", ("AlignCorners", "HalfPixelCenters")),
    "RESIZE_NEAREST_NEIGHBOR": (
        "ResizeNearestNeighborOptions",
        ("AlignCorners", "HalfPixelCenters"),
    ),
    "SPACE_TO_DEPTH": ("SpaceToDepthOptions", ("BlockSize",)),
    "DEPTH_TO_SPACE": ("DepthToSpaceOptions", ("BlockSize",)),
    "CAST": ("CastOptions", ("InDataType", "OutDataType")),
}
