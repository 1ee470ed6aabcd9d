"""Small networks of the families that the converter promises."""

from __future__ import annotations

import math

from tests.tflite.write import RELU, RELU6, SAME, VALID, TfliteWriter


class Network(TfliteWriter):
    """A writer that knows layers, and what shape they leave; weights are random."""

    def shape(self, x: int) -> list[int]:
        return [int(size) for size in self.graph.tensors[x].shape]

    def layer(
        self,
        x: int,
        channels: int,
        kernel: tuple[int, int] = (3, 3),
        *,
        stride: int = 1,
        padding: int = SAME,
        activation: int = 0,
    ) -> int:
        """A convolution with bias."""
        _, *sizes, depth = self.shape(x)
        fits = _fits(sizes, kernel, stride, padding)
        return self.conv(
            x,
            self.weights(channels, *kernel, depth),
            self.weights(channels),
            *(1, *fits, channels),
            stride=stride,
            padding=padding,
            activation=activation,
        )

    def depthwise(self, x: int, size: int = 3, *, activation: int, dilation: int = 1) -> int:
        """A convolution of each channel by itself, which keeps the shape."""
        shape = self.shape(x)
        return self.conv(
            x,
            self.weights(1, size, size, shape[-1]),
            self.weights(shape[-1]),
            *shape,
            activation=activation,
            depthwise=True,
            dilation=dilation,
        )

    def pool(self, kind: str, x: int, size: int, stride: int, padding: int = SAME) -> int:
        _, *sizes, channels = self.shape(x)
        fits = _fits(sizes, (size, size), stride, padding)
        return self.op(
            kind,
            [x],
            self.tensor(1, *fits, channels, batch_is_free=True),
            table="Pool2DOptions",
            padding=padding,
            strideH=stride,
            strideW=stride,
            filterHeight=size,
            filterWidth=size,
        )

    def mean(self, x: int, *, keep: bool) -> int:
        """Over the plane, which is kept with size 1 or dropped."""
        channels = self.shape(x)[-1]
        return self.op(
            "MEAN",
            [x, self.constant([1, 2], "int32")],
            self.tensor(*((1, 1, 1) if keep else (1,)), channels, batch_is_free=True),
            table="ReducerOptions",
            keepDims=keep,
        )

    def dense(self, x: int, width: int, *, activation: int = 0) -> int:
        """A fully connected layer over all that one sample holds."""
        _, *sizes = self.shape(x)
        return self.op(
            "FULLY_CONNECTED",
            [x, self.weights(width, math.prod(sizes)), self.weights(width)],
            self.tensor(1, width, batch_is_free=True),
            table="FullyConnectedOptions",
            fusedActivationFunction=activation,
        )

    def join(self, kind: str, x: int, y: int, *, activation: int = 0) -> int:
        """ADD or MUL, in the shape of ``x``."""
        return self.op(
            kind,
            [x, y],
            self.tensor(*self.shape(x), batch_is_free=True),
            table=f"{kind.capitalize()}Options",
            fusedActivationFunction=activation,
        )


def _fits(sizes: list[int], kernel: tuple[int, int], stride: int, padding: int) -> list[int]:
    """How often a kernel fits into a plane, down and across."""
    if padding == SAME:
        return [-(-size // stride) for size in sizes]
    return [(size - reach) // stride + 1 for size, reach in zip(sizes, kernel, strict=True)]


def mobilenet_v1() -> bytes:
    w = Network()
    x = w.input(1, 15, 15, 3)
    x = w.layer(x, 8, stride=2, activation=RELU6)
    x = w.depthwise(x, activation=RELU6)
    x = w.layer(x, 16, (1, 1), activation=RELU6)
    x = w.pool("AVERAGE_POOL_2D", x, 8, 8, VALID)
    x = w.layer(x, 5, (1, 1))
    x = w.op(
        "RESHAPE",
        [x, w.constant([-1, 5], "int32")],
        w.tensor(1, 5, batch_is_free=True),
        table="ReshapeOptions",
        newShape=[-1, 5],
    )
    x = w.op("SOFTMAX", [x], w.tensor(1, 5, batch_is_free=True), table="SoftmaxOptions", beta=1.0)
    return w.finish(x)


def mobilenet_v2() -> bytes:
    """Keras' form: an explicit PAD before the strided convolution, MEAN at the end."""
    w = Network()
    x = w.input(1, 16, 16, 3)
    pads = w.constant([[0, 0], [0, 1], [0, 1], [0, 0]], "int32")
    x = w.op("PAD", [x, pads], w.tensor(1, 17, 17, 3, batch_is_free=True), table="PadOptions")
    x = w.layer(x, 8, stride=2, padding=VALID, activation=RELU6)
    skip = x
    x = w.layer(x, 24, (1, 1), activation=RELU6)
    x = w.depthwise(x, activation=RELU6)
    x = w.layer(x, 8, (1, 1))
    x = w.join("ADD", skip, x)
    x = w.mean(x, keep=False)
    return w.finish(w.dense(x, 4))


def mobilenet_v3() -> bytes:
    """Hard swish, and squeeze-and-excite with a hard sigmoid spelled out in RELU6 and MUL."""
    w = Network()
    x = w.input(1, 12, 12, 3)
    x = w.layer(x, 8, stride=2)
    x = w.op("HARD_SWISH", [x], w.tensor(*w.shape(x), batch_is_free=True))
    x = w.depthwise(x, 5, activation=RELU)
    s = w.mean(x, keep=True)
    s = w.layer(s, 4, (1, 1), activation=RELU)
    s = w.layer(s, 8, (1, 1))
    s = w.join("ADD", s, w.constant(3.0), activation=RELU6)
    s = w.join("MUL", s, w.constant(1 / 6))
    x = w.join("MUL", x, s)
    return w.finish(w.mean(x, keep=False))


def resnet() -> bytes:
    """Max pool, a projected shortcut, and a batch norm that was left as MUL and ADD."""
    w = Network()
    x = w.input(1, 16, 16, 3)
    x = w.layer(x, 8, activation=RELU)
    x = w.pool("MAX_POOL_2D", x, 3, 2)
    y = w.layer(x, 12, stride=2, activation=RELU)
    y = w.layer(y, 12)
    y = w.join("MUL", y, w.weights(12))
    y = w.join("ADD", y, w.weights(12))
    x = w.layer(x, 12, (1, 1), stride=2)
    x = w.join("ADD", x, y, activation=RELU)
    x = w.op("RESHAPE", [x, w.constant([-1, 192], "int32")], w.tensor(1, 192, batch_is_free=True))
    return w.finish(w.dense(x, 5))


def ds_cnn() -> bytes:
    """A spectrogram of one channel, an oblong kernel, dilation."""
    w = Network()
    x = w.input(1, 25, 10, 1)
    x = w.layer(x, 8, (10, 4), stride=2, activation=RELU)
    x = w.depthwise(x, activation=RELU, dilation=2)
    x = w.layer(x, 8, (1, 1), activation=RELU)
    x = w.pool("AVERAGE_POOL_2D", x, 3, 3)
    return w.finish(w.dense(x, 6))


def autoencoder() -> bytes:
    w = Network()
    x = w.input(1, 40)
    for width, activation in ((16, RELU), (4, RELU), (16, RELU), (40, 0)):
        x = w.dense(x, width, activation=activation)
    return w.finish(x)


def ssd_heads() -> bytes:
    """Two feature maps, boxes and scores reshaped and joined: two outputs."""
    w = Network()
    x = w.input(1, 16, 16, 3)
    near = w.layer(x, 8, stride=2, activation=RELU6)
    far = w.layer(near, 8, stride=2, activation=RELU6)
    joined = []
    for width in (4, 3):
        rows, count = [], 0
        for source in (near, far):
            head = w.layer(source, 2 * width)
            boxes = math.prod(w.shape(source)[1:3]) * 2
            rows.append(
                w.op(
                    "RESHAPE",
                    [head, w.constant([1, -1, width], "int32")],
                    w.tensor(1, boxes, width, batch_is_free=True),
                )
            )
            count += boxes
        joined.append(
            w.op(
                "CONCATENATION",
                rows,
                w.tensor(1, count, width, batch_is_free=True),
                table="ConcatenationOptions",
                axis=1,
            )
        )
    scores = w.op("LOGISTIC", [joined[1]], w.tensor(1, 160, 3, batch_is_free=True))
    return w.finish(joined[0], scores)


NETWORKS = {
    maker.__name__: maker
    for maker in (
        mobilenet_v1,
        mobilenet_v2,
        mobilenet_v3,
        resnet,
        ds_cnn,
        autoencoder,
        ssd_heads,
    )
}
