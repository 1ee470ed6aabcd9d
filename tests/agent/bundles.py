"""Real bundles for the agent's tests: the digits network in float, with golden vectors and drift
reference made by ``edge_runtime`` itself. No compiler is needed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from edge_contract.codec import encode_json
from edge_contract.golden import GoldenVectors, encode_golden
from edge_contract.layout import write_bundle
from edge_contract.manifest import DOC, WEIGHT, WEIGHT_CONFIG, ConfigDetail
from edge_contract.model import Lineage, ModelManifest, TensorSpec, Variant
from edge_contract.preprocess import PreprocessSpec
from edge_runtime.features import extract, feature_names
from edge_runtime.golden import to_tensor
from edge_runtime.reference import build_reference
from edge_runtime.session import ModelSession
from examples.digits.render import render_frames, sources_of

HARDWARE = "generic-x86-64"
MODEL = Path(__file__).parents[2] / "examples" / "digits" / "digits_float.onnx"


def manifest(version: str) -> ModelManifest:
    """``model.json`` of the digits network."""
    return ModelManifest(
        name="digits",
        version=version,
        task="classification",
        inputs=[TensorSpec(name="frame", dtype="float32", shape=[None, 1, 32, 32])],
        outputs=[TensorSpec(name="scores", dtype="float32", shape=[None, 10])],
        labels=[str(digit) for digit in range(10)],
        preprocess=PreprocessSpec(
            kind="image",
            colour="GRAY",
            height_px=32,
            width_px=32,
            resize="linear",
            model_layout="NCHW",
            scale=1 / 255,
            mean=[0.5],
            std=[0.5],
        ),
        variants=[
            Variant(
                target=target,
                runtime="onnxruntime",
                scheme="float32",
                file="variants/float32.onnx",
                golden="golden/float32.msgpack",
            )
            for target in (HARDWARE, "raspberry-pi-4")
        ],
        lineage=Lineage(
            source_digest="", calibration_digest="", test_digest="", tools={}, options={}
        ),
    )


@cache
def _made(version: str) -> dict[str, tuple[str, bytes]]:
    model = manifest(version)
    data = MODEL.read_bytes()
    session = ModelSession(data, model, model.variants[0])
    frames = render_frames(sources_of("selection"), seed=1)
    scores = session.scores(frames)
    rows = [extract(frame, row) for frame, row in zip(frames, scores, strict=True)]
    reference = build_reference(
        np.stack([features for features, _ in rows]),
        np.array([class_id for _, class_id in rows]),
        feature_names(),
        classes=10,
    )
    golden = GoldenVectors(
        frames=to_tensor(frames[:4]), scores=to_tensor(scores[:4]), tolerance_abs=1e-3
    )
    return {
        "model.json": (WEIGHT_CONFIG, encode_json(model)),
        "variants/float32.onnx": (WEIGHT, data),
        "golden/float32.msgpack": (WEIGHT_CONFIG, encode_golden(golden)),
        "drift-reference.msgpack": (WEIGHT_CONFIG, reference.encode()),
        "evidence.json": (DOC, b"{}"),
    }


def digits_bundle(path: Path, version: str = "1.0.0", *, model: bytes | None = None) -> str:
    """Write a bundle; ``model`` replaces the network after its golden vectors were made."""
    files = dict(_made(version))
    if model is not None:
        files["variants/float32.onnx"] = (WEIGHT, model)
    return write_bundle(
        path, name="digits", version=version, files=files, detail=ConfigDetail(format="onnx")
    )
