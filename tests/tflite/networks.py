"""Small networks of the families that the converter promises."""

from __future__ import annotations

from tests.tflite.write import RELU, RELU6, SAME, VALID, TfliteWriter


def mobilenet_v1() -> bytes:
    w = TfliteWriter()
    x = w.input(1, 15, 15, 3)
    x = w.conv(x, w.weights(8, 3, 3, 3), w.weights(8), 1, 8, 8, 8, stride=2, activation=RELU6)
    x = w.conv(x, w.weights(1, 3, 3, 8), w.weights(8), 1, 8, 8, 8, activation=RELU6, depthwise=True)
    x = w.conv(x, w.weights(16, 1, 1, 8), w.weights(16), 1, 8, 8, 16, activation=RELU6)
    x = w.op(
        "AVERAGE_POOL_2D",
        [x],
        w.tensor(1, 1, 1, 16, batch_is_free=True),
        table="Pool2DOptions",
        padding=VALID,
        strideH=8,
        strideW=8,
        filterHeight=8,
        filterWidth=8,
    )
    x = w.conv(x, w.weights(5, 1, 1, 16), w.weights(5), 1, 1, 1, 5)
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
    w = TfliteWriter()
    x = w.input(1, 16, 16, 3)
    pads = w.constant([[0, 0], [0, 1], [0, 1], [0, 0]], "int32")
    x = w.op("PAD", [x, pads], w.tensor(1, 17, 17, 3, batch_is_free=True), table="PadOptions")
    x = w.conv(
        x,
        w.weights(8, 3, 3, 3),
        w.weights(8),
        1,
        8,
        8,
        8,
        stride=2,
        padding=VALID,
        activation=RELU6,
    )
    skip = x
    x = w.conv(x, w.weights(24, 1, 1, 8), w.weights(24), 1, 8, 8, 24, activation=RELU6)
    x = w.conv(
        x, w.weights(1, 3, 3, 24), w.weights(24), 1, 8, 8, 24, activation=RELU6, depthwise=True
    )
    x = w.conv(x, w.weights(8, 1, 1, 24), w.weights(8), 1, 8, 8, 8)
    x = w.op("ADD", [skip, x], w.tensor(1, 8, 8, 8, batch_is_free=True), table="AddOptions")
    x = w.op(
        "MEAN",
        [x, w.constant([1, 2], "int32")],
        w.tensor(1, 8, batch_is_free=True),
        table="ReducerOptions",
        keepDims=False,
    )
    x = w.op(
        "FULLY_CONNECTED",
        [x, w.weights(4, 8), w.weights(4)],
        w.tensor(1, 4, batch_is_free=True),
        table="FullyConnectedOptions",
    )
    return w.finish(x)


def mobilenet_v3() -> bytes:
    """Hard swish, and squeeze-and-excite with a hard sigmoid spelled out in RELU6 and MUL."""
    w = TfliteWriter()
    x = w.input(1, 12, 12, 3)
    x = w.conv(x, w.weights(8, 3, 3, 3), w.weights(8), 1, 6, 6, 8, stride=2)
    x = w.op("HARD_SWISH", [x], w.tensor(1, 6, 6, 8, batch_is_free=True))
    x = w.conv(x, w.weights(1, 5, 5, 8), w.weights(8), 1, 6, 6, 8, activation=RELU, depthwise=True)
    s = w.op(
        "MEAN",
        [x, w.constant([1, 2], "int32")],
        w.tensor(1, 1, 1, 8, batch_is_free=True),
        table="ReducerOptions",
        keepDims=True,
    )
    s = w.conv(s, w.weights(4, 1, 1, 8), w.weights(4), 1, 1, 1, 4, activation=RELU)
    s = w.conv(s, w.weights(8, 1, 1, 4), w.weights(8), 1, 1, 1, 8)
    s = w.op(
        "ADD",
        [s, w.constant(3.0)],
        w.tensor(1, 1, 1, 8, batch_is_free=True),
        table="AddOptions",
        fusedActivationFunction=RELU6,
    )
    s = w.op(
        "MUL",
        [s, w.constant(1 / 6)],
        w.tensor(1, 1, 1, 8, batch_is_free=True),
        table="MulOptions",
    )
    x = w.op("MUL", [x, s], w.tensor(1, 6, 6, 8, batch_is_free=True), table="MulOptions")
    x = w.op(
        "MEAN",
        [x, w.constant([1, 2], "int32")],
        w.tensor(1, 8, batch_is_free=True),
        table="ReducerOptions",
        keepDims=False,
    )
    return w.finish(x)


def resnet() -> bytes:
    """Max pool, a projected shortcut, and a batch norm that was left as MUL and ADD."""
    w = TfliteWriter()
    x = w.input(1, 16, 16, 3)
    x = w.conv(x, w.weights(8, 3, 3, 3), w.weights(8), 1, 16, 16, 8, activation=RELU)
    x = w.op(
        "MAX_POOL_2D",
        [x],
        w.tensor(1, 8, 8, 8, batch_is_free=True),
        table="Pool2DOptions",
        padding=SAME,
        strideH=2,
        strideW=2,
        filterHeight=3,
        filterWidth=3,
    )
    y = w.conv(x, w.weights(12, 3, 3, 8), w.weights(12), 1, 4, 4, 12, stride=2, activation=RELU)
    y = w.conv(y, w.weights(12, 3, 3, 12), w.weights(12), 1, 4, 4, 12)
    y = w.op(
        "MUL", [y, w.weights(12)], w.tensor(1, 4, 4, 12, batch_is_free=True), table="MulOptions"
    )
    y = w.op(
        "ADD", [y, w.weights(12)], w.tensor(1, 4, 4, 12, batch_is_free=True), table="AddOptions"
    )
    x = w.conv(x, w.weights(12, 1, 1, 8), w.weights(12), 1, 4, 4, 12, stride=2)
    x = w.op(
        "ADD",
        [x, y],
        w.tensor(1, 4, 4, 12, batch_is_free=True),
        table="AddOptions",
        fusedActivationFunction=RELU,
    )
    x = w.op("RESHAPE", [x, w.constant([-1, 192], "int32")], w.tensor(1, 192, batch_is_free=True))
    x = w.op(
        "FULLY_CONNECTED",
        [x, w.weights(5, 192), w.weights(5)],
        w.tensor(1, 5, batch_is_free=True),
        table="FullyConnectedOptions",
    )
    return w.finish(x)


def ds_cnn() -> bytes:
    """A spectrogram of one channel, an oblong kernel, dilation."""
    w = TfliteWriter()
    x = w.input(1, 25, 10, 1)
    x = w.conv(x, w.weights(8, 10, 4, 1), w.weights(8), 1, 13, 5, 8, stride=2, activation=RELU)
    x = w.conv(
        x,
        w.weights(1, 3, 3, 8),
        w.weights(8),
        1,
        13,
        5,
        8,
        activation=RELU,
        depthwise=True,
        dilation=2,
    )
    x = w.conv(x, w.weights(8, 1, 1, 8), w.weights(8), 1, 13, 5, 8, activation=RELU)
    x = w.op(
        "AVERAGE_POOL_2D",
        [x],
        w.tensor(1, 5, 2, 8, batch_is_free=True),
        table="Pool2DOptions",
        padding=SAME,
        strideH=3,
        strideW=3,
        filterHeight=3,
        filterWidth=3,
    )
    x = w.op(
        "FULLY_CONNECTED",
        [x, w.weights(6, 80), w.weights(6)],
        w.tensor(1, 6, batch_is_free=True),
        table="FullyConnectedOptions",
    )
    return w.finish(x)


def autoencoder() -> bytes:
    w = TfliteWriter()
    x = w.input(1, 40)
    for width, activation in ((16, RELU), (4, RELU), (16, RELU), (40, 0)):
        before = int(w.graph.tensors[x].shape[1])
        x = w.op(
            "FULLY_CONNECTED",
            [x, w.weights(width, before), w.weights(width)],
            w.tensor(1, width, batch_is_free=True),
            table="FullyConnectedOptions",
            fusedActivationFunction=activation,
        )
    return w.finish(x)


def ssd_heads() -> bytes:
    """Two feature maps, boxes and scores reshaped and joined: two outputs."""
    w = TfliteWriter()
    x = w.input(1, 16, 16, 3)
    near = w.conv(x, w.weights(8, 3, 3, 3), w.weights(8), 1, 8, 8, 8, stride=2, activation=RELU6)
    far = w.conv(near, w.weights(8, 3, 3, 8), w.weights(8), 1, 4, 4, 8, stride=2, activation=RELU6)
    joined = []
    for width in (4, 3):
        rows, count = [], 0
        for source, size in ((near, 8), (far, 4)):
            head = w.conv(
                source,
                w.weights(2 * width, 3, 3, 8),
                w.weights(2 * width),
                1,
                size,
                size,
                2 * width,
            )
            boxes = size * size * 2
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
