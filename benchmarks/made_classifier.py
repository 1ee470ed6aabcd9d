"""A ten-class picture classifier that is made, not trained: for the agent's benchmarks.

The body is the caller's (any nodes from ``frame`` to one feature map); the head, the manifest and
the golden vectors are the same for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edge_contract.golden import GoldenVectors
from edge_contract.model import Lineage, ModelManifest, TensorSpec, Variant
from edge_contract.preprocess import PreprocessSpec
from edge_runtime.golden import to_tensor
from edge_runtime.session import ModelSession

CLASSES = 10


def with_head(
    body: list[NodeProto],
    weights: list[TensorProto],
    features: str,
    *,
    channels: int,
    side_px: int,
    rng: np.random.Generator,
) -> bytes:
    """The ONNX file: ``body`` from ``frame`` float32 [1, 3, side, side] to ``features``, then
    pooling, a dense layer and softmax to ``scores`` float32 [1, 10].

    Args:
        channels: of ``features`` [1, channels, h, w].
        rng: draws the dense layer.
    """
    dense = rng.normal(0, 1, (channels, CLASSES)).astype(np.float32)
    head = [
        helper.make_node("GlobalAveragePool", [features], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    shape = [1, 3, side_px, side_px]
    graph = helper.make_graph(
        [*body, *head],
        "made",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])],
        [*weights, numpy_helper.from_array(dense, "dense")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString()


def manifest_of(
    name: str, version: str, *, side_px: int, target: str, scheme: str, **preprocess: Any
) -> ModelManifest:
    """``model.json`` of such a classifier; its one variant is file ``m`` with golden vectors ``g``.

    Args:
        preprocess: further fields of its ``PreprocessSpec``.
    """
    variant = Variant(target=target, runtime="onnxruntime", scheme=scheme, file="m", golden="g")
    return ModelManifest(
        name=name,
        version=version,
        task="classification",
        inputs=[TensorSpec(name="frame", dtype="float32", shape=[1, 3, side_px, side_px])],
        outputs=[TensorSpec(name="scores", dtype="float32", shape=[1, CLASSES])],
        labels=[str(k) for k in range(CLASSES)],
        preprocess=PreprocessSpec(
            kind="image",
            colour="BGR",
            height_px=side_px,
            width_px=side_px,
            model_layout="NCHW",
            scale=1 / 255,
            **preprocess,
        ),
        variants=[variant],
        lineage=Lineage(
            source_digest="", calibration_digest="", test_digest="", tools={}, options={}
        ),
    )


def session_of(model: bytes | Path, manifest: ModelManifest) -> ModelSession:
    """The classifier as an agent loads it."""
    return ModelSession(model, manifest, manifest.variants[0])


def golden_of(
    session: ModelSession, frames: np.ndarray, *, tolerance_abs: float = 1e-3
) -> GoldenVectors:
    """What the session answers to raw frames uint8 ``[n, h, w, 3]``, as golden vectors."""
    return GoldenVectors(
        frames=to_tensor(frames),
        scores=to_tensor(session.scores(frames)),
        tolerance_abs=tolerance_abs,
    )
