"""Small networks of many families with random weights, as exporters write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass
class Net:
    """A graph under construction; every method returns the name of what it makes."""

    seed: int
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def const(self, value: npt.NDArray[np.generic]) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(value, name))
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def random(self, *shape: int, fan_in: int) -> str:
        values = self._random.normal(0, np.sqrt(2 / fan_in), shape)
        # Channels of unlike size, as training leaves them.
        spread = self._random.uniform(0.3, 1.5, (shape[0], *[1] * (len(shape) - 1)))
        return self.const((values * spread).astype(np.float32))

    def bias(self, width: int) -> str:
        return self.const(self._random.normal(0, 0.2, width).astype(np.float32))

    def conv(
        self, x: str, i: int, o: int, k: int = 3, s: int = 1, g: int = 1, rank: int = 2
    ) -> str:
        weight = self.random(o, i // g, *[k] * rank, fan_in=(i // g) * k**rank)
        pads = [k // 2] * (2 * rank)
        return self.add("Conv", x, weight, self.bias(o), pads=pads, strides=[s] * rank, group=g)

    def dense(self, x: str, i: int, o: int) -> str:
        return self.add("Gemm", x, self.random(o, i, fan_in=i), self.bias(o), transB=1)

    def linear(self, x: str, i: int, o: int) -> str:
        return self.add("Add", self.add("MatMul", x, self.random(i, o, fan_in=i)), self.bias(o))

    def flat(self, x: str) -> str:
        return self.add("Flatten", self.add("GlobalAveragePool", x))

    def model(self, output: str, shape: Shape, made: Shape = (10,)) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", *made])],
            self.tensors,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mobile() -> tuple[ModelProto, Shape]:
    """Depthwise convolutions, HardSwish, squeeze-and-excite, a residual addition."""
    n = Net(1)
    x = n.add("HardSwish", n.conv("x", 3, 16, s=2))
    y = n.add("HardSwish", n.conv(x, 16, 32, k=1))
    y = n.add("HardSwish", n.conv(y, 32, 32, g=32))
    gate = n.add("Relu", n.conv(n.add("GlobalAveragePool", y), 32, 8, k=1))
    gate = n.add("HardSigmoid", n.conv(gate, 8, 32, k=1), alpha=1 / 6)
    y = n.conv(n.add("Mul", y, gate), 32, 16, k=1)
    return n.model(n.dense(n.flat(n.add("Add", x, y)), 16, 10), (3, 16, 16)), (3, 16, 16)


def residual() -> tuple[ModelProto, Shape]:
    """A strided residual block with a projection, pooling, a softmax."""
    n = Net(2)
    x = n.add("Relu", n.conv("x", 3, 16))
    y = n.conv(n.add("Relu", n.conv(x, 16, 24, s=2)), 24, 24)
    y = n.add("Relu", n.add("Add", y, n.conv(x, 16, 24, k=1, s=2)))
    y = n.add("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    return n.model(n.add("Softmax", n.dense(n.flat(y), 24, 10)), (3, 16, 16)), (3, 16, 16)


def autoencoder() -> tuple[ModelProto, Shape]:
    """Dense layers through a bottleneck."""
    n = Net(3)
    y = n.add("Relu", n.dense("x", 96, 48))
    y = n.add("Relu", n.dense(y, 48, 12))
    y = n.add("Relu", n.dense(y, 12, 48))
    return n.model(n.dense(y, 48, 96), (96,), (96,)), (96,)


def attention() -> tuple[ModelProto, Shape]:
    """One transformer block: LayerNormalization, products of activations, a softmax inside."""
    n = Net(4)
    steps, width, heads = 12, 32, 4

    def normed(x: str) -> str:
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        return n.add("LayerNormalization", x, n.const(ones), n.const(zeros), axis=-1)

    def split(x: str, perm: list[int]) -> str:
        shape = n.const(np.array([-1, steps, heads, width // heads], np.int64))
        return n.add("Transpose", n.add("Reshape", x, shape), perm=perm)

    x = n.linear("x", 8, width)
    y = normed(x)
    query = split(n.linear(y, width, width), [0, 2, 1, 3])
    key = split(n.linear(y, width, width), [0, 2, 3, 1])
    value = split(n.linear(y, width, width), [0, 2, 1, 3])
    scores = n.add("Mul", n.add("MatMul", query, key), n.const(np.array(0.35, np.float32)))
    mixed = n.add("MatMul", n.add("Softmax", scores, axis=-1), value)
    joined = n.add("Transpose", mixed, perm=[0, 2, 1, 3])
    joined = n.add("Reshape", joined, n.const(np.array([-1, steps, width], np.int64)))
    x = n.add("Add", x, n.linear(joined, width, width))
    y = n.linear(n.add("Relu", n.linear(normed(x), width, 64)), 64, width)
    pooled = n.add("ReduceMean", n.add("Add", x, y), axes=[1], keepdims=0)
    return n.model(n.dense(pooled, width, 10), (steps, 8)), (steps, 8)


def signal() -> tuple[ModelProto, Shape]:
    """Convolutions over time, one of them grouped and one dilated by auto_pad's rules."""
    n = Net(5)
    y = n.add("Relu", n.conv("x", 2, 16, k=7, s=2, rank=1))
    y = n.add("Relu", n.conv(y, 16, 16, k=3, g=4, rank=1))
    weight = n.random(24, 16, 3, fan_in=48)
    y = n.add("Relu", n.add("Conv", y, weight, n.bias(24), auto_pad="SAME_UPPER", strides=[2]))
    return n.model(n.dense(n.flat(y), 24, 10), (2, 64)), (2, 64)


def unet() -> tuple[ModelProto, Shape]:
    """Down and up again: Resize, ConvTranspose, Concat with what went down."""
    n = Net(6)
    a = n.add("Relu", n.conv("x", 3, 12))
    b = n.add("Relu", n.conv(a, 12, 16, s=2))
    c = n.add("Relu", n.conv(b, 16, 16, s=2))
    weight = n.random(16, 8, 2, 2, fan_in=16)
    up = n.add("ConvTranspose", c, weight, n.bias(8), strides=[2, 2])
    d = n.add("Relu", n.conv(n.add("Concat", up, b, axis=1), 24, 16))
    scales = n.const(np.array([1, 1, 2, 2], np.float32))
    up = n.add("Resize", d, "", scales, mode="nearest")
    e = n.add("Relu", n.conv(n.add("Concat", up, a, axis=1), 28, 12))
    return n.model(n.conv(e, 12, 2, k=1), (3, 16, 16), (2, 16, 16)), (3, 16, 16)


def grouped() -> tuple[ModelProto, Shape]:
    """A depthwise layer that doubles its channels, groups, LeakyRelu, a clip at six."""
    n = Net(11)
    y = n.add("LeakyRelu", n.conv("x", 3, 16, s=2), alpha=0.1)
    weight = n.random(32, 1, 3, 3, fan_in=9)
    y = n.add("Conv", y, weight, n.bias(32), group=16, pads=[1] * 4)
    bounds = [n.const(np.array(bound, np.float32)) for bound in (0, 6)]
    y = n.add("LeakyRelu", n.conv(n.add("Clip", y, *bounds), 32, 32, g=4), alpha=0.2)
    y = n.add("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])
    return n.model(n.dense(n.flat(y), 32, 10), (3, 16, 16)), (3, 16, 16)


def volume() -> tuple[ModelProto, Shape]:
    """Convolutions in three dimensions; a batch norm behind a concatenation, which none folds."""
    n = Net(13)
    a = n.add("Relu", n.conv("x", 2, 8, rank=3))
    y = n.add("Concat", a, n.add("Relu", n.conv("x", 2, 8, k=1, rank=3)), axis=1)
    random = np.random.default_rng(5)
    scale, variance = (random.uniform(0.5, 1.5, 16).astype(np.float32) for _ in range(2))
    shift, mean = (random.normal(0, 0.2, 16).astype(np.float32) for _ in range(2))
    y = n.add("BatchNormalization", y, *map(n.const, (scale, shift, mean, variance)))
    y = n.add("MaxPool", n.add("Relu", y), kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    y = n.add("Relu", n.conv(y, 16, 16, rank=3))
    return n.model(n.dense(n.flat(y), 16, 10), (2, 8, 8, 8)), (2, 8, 8, 8)


def converted() -> tuple[ModelProto, Shape]:
    """NHWC as converters leave it: Transposes, a Pad, a bias as Add; Split, Resize and Slice."""
    n = Net(18)
    y = n.add("Transpose", "x", perm=[0, 3, 1, 2])
    y = n.add("Pad", y, n.const(np.array([0, 0, 0, 0, 0, 0, 1, 1])))
    y = n.add("Conv", y, n.random(16, 3, 3, 3, fan_in=27), strides=[2, 2])
    y = n.add(
        "Relu",
        n.add("Add", y, n.const(np.linspace(-0.3, 0.3, 16, dtype=np.float32)[:, None, None])),
    )
    scale = n.const(np.linspace(0.5, 1.5, 16, dtype=np.float32))
    y = n.add("Mul", n.add("Transpose", y, perm=[0, 2, 3, 1]), scale)
    y = n.add("Relu", n.conv(n.add("Transpose", y, perm=[0, 3, 1, 2]), 16, 16, g=16))
    halves = [n.const(np.array(bounds)) for bounds in ([0], [8], [8], [16], [1])]
    first, second = (n.add("Slice", y, *halves[2 * i : 2 * i + 2], halves[4]) for i in (0, 1))
    scales = n.const(np.array([1, 1, 2, 2], np.float32))
    second = n.add("Resize", second, "", scales, mode="linear")
    corner = [n.const(np.array(bounds)) for bounds in ([4, 4], [12, 12], [2, 3])]
    y = n.add("Concat", first, n.add("Slice", second, *corner), axis=1)
    y = n.add("Transpose", n.add("Relu", n.conv(y, 16, 24, k=1)), perm=[0, 2, 3, 1])
    y = n.add("ReduceMean", y, axes=[1, 2], keepdims=0)
    return n.model(n.add("Softmax", n.linear(y, 24, 10), axis=-1), (16, 16, 3)), (16, 16, 3)


NETWORKS = (
    *(mobile, residual, autoencoder, attention, signal, unet),
    *(grouped, volume, converted),
)

ZOO: dict[str, Callable[[], tuple[ModelProto, Shape]]] = {one.__name__: one for one in NETWORKS}


def samples(shape: Shape, count: int, seed: int) -> Array:
    """Inputs float32 ``[count, *shape]``: a few patterns, each of its own strength, and noise."""
    random = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).normal(0, 1, (6, *shape))
    strength = random.uniform(0.2, 1.5, (count, *[1] * len(shape)))
    x = patterns[random.integers(0, 6, count)] * strength + random.normal(0, 0.5, (count, *shape))
    return x.astype(np.float32)
