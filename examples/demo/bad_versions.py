"""Two bad versions, made with ordinary tools from a good bundle: json, hashlib and onnx.

Nothing of the product is used, so nothing in it can know them. Both are valid bundles: every digest
fits, and whoever holds the keys can sign them.

- ``swap_weights``: the weights were exchanged after compiling. The golden vectors must refuse it.
- ``slow_down``: the answers are right, and each takes at least ten times as long.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

FILEPATH = "org.cncf.model.filepath"


def rebuild(source: Path, target: Path, version: str, change: Callable[[bytes], bytes]) -> None:
    """Copy a bundle, let ``change`` edit every .onnx file in it, and mend all digests."""
    shutil.copytree(source, target)
    blobs = target / "blobs" / "sha256"

    def put(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return f"sha256:{digest}"

    def get(digest: str) -> bytes:
        return (blobs / digest.removeprefix("sha256:")).read_bytes()

    def dump(value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode()

    index = json.loads((target / "index.json").read_text())
    manifest = json.loads(get(index["manifests"][0]["digest"]))
    for layer in manifest["layers"]:
        name = layer["annotations"][FILEPATH]
        data = get(layer["digest"])
        if name.endswith(".onnx"):
            data = change(data)
        elif name == "model.json":
            data = dump({**json.loads(data), "version": version})
        layer["digest"], layer["size"] = put(data), len(data)
    config = json.loads(get(manifest["config"]["digest"]))
    config["descriptor"]["version"] = version
    config["modelfs"]["diffIds"] = [layer["digest"] for layer in manifest["layers"]]
    data = dump(config)
    manifest["config"]["digest"], manifest["config"]["size"] = put(data), len(data)
    data = dump(manifest)
    index["manifests"][0] |= {"digest": put(data), "size": len(data)}
    (target / "index.json").write_text(json.dumps(index))


def swap_weights(data: bytes) -> bytes:
    """Shuffle the values of every large integer weight tensor."""
    model = onnx.load_from_string(data)
    rng = np.random.default_rng(1)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.size > 64:
            shuffled = rng.permutation(values.reshape(-1)).reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(shuffled, tensor.name))
    return model.SerializeToString()


def slow_down(data: bytes, factor: float = 30.0) -> bytes:
    """Add work that ends in ``+ 0 * something`` until an answer takes ``factor`` times as long.

    Back to back the good model answers from warm caches; between a device's frames it takes two or
    three times that, the slow one does not. So 30 here is 10 and more there.
    """
    layers = 4
    while True:
        slow = with_useless_work(data, layers)
        if times_slower(slow, data) >= factor:
            return slow
        layers *= 2


def with_useless_work(data: bytes, layers: int) -> bytes:
    """The model with ``layers`` convolutions whose result is multiplied by zero and added."""
    model = onnx.load_from_string(data)
    graph = model.graph
    rng = np.random.default_rng(2)
    channels = int(graph.input[0].type.tensor_type.shape.dim[1].dim_value)
    name = graph.input[0].name
    for number in range(layers):
        shape = (24, channels if number == 0 else 24, 3, 3)
        weight = rng.normal(0, 0.05, shape).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(weight, f"useless_w{number}"))
        graph.node.append(
            helper.make_node(
                "Conv", [name, f"useless_w{number}"], [f"useless_{number}"], pads=[1, 1, 1, 1]
            )
        )
        name = f"useless_{number}"
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "useless_zero"))
    graph.node.append(helper.make_node("GlobalAveragePool", [name], ["useless_pool"]))
    graph.node.append(
        helper.make_node("ReduceMean", ["useless_pool"], ["useless_mean"], keepdims=0)
    )
    graph.node.append(helper.make_node("Mul", ["useless_mean", "useless_zero"], ["useless_sum"]))
    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["answer" if o == output else o for o in node.output]
    graph.node.append(helper.make_node("Add", ["answer", "useless_sum"], [output]))
    return model.SerializeToString()


def times_slower(slow: bytes, data: bytes, pairs: int = 60) -> float:
    """Median of the ratio of one inference each, in turns, on one thread: both meet one load."""
    sessions = [_session(slow), _session(data)]
    ratios = []
    for _ in range(pairs):
        slow_s, fast_s = (_seconds(*session) for session in sessions)
        ratios.append(slow_s / fast_s)
    return float(np.median(ratios))


def _session(data: bytes) -> tuple[ort.InferenceSession, dict[str, Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (feed,) = session.get_inputs()
    shape = [n if isinstance(n, int) else 1 for n in feed.shape]
    return session, {feed.name: np.zeros(shape, np.float32)}


def _seconds(session: ort.InferenceSession, batch: dict[str, Any]) -> float:
    begin = time.perf_counter()
    session.run(None, batch)
    return time.perf_counter() - begin
