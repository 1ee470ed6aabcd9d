"""Files of a small bundle: well-formed in everything, but no runtime could run its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_contract.codec import encode_json
from edge_contract.manifest import DOC, WEIGHT, WEIGHT_CONFIG
from edge_contract.model import DRIFT_REFERENCE_FILE, Lineage, ModelManifest, TensorSpec, Variant
from edge_contract.preprocess import PreprocessSpec


def small_files(
    name: str,
    version: str,
    weights: Mapping[str, bytes],
    *,
    labels: Sequence[str] = ("a", "b"),
    golden: bytes = b"golden",
    reference: bytes = b"reference",
) -> dict[str, tuple[str, bytes]]:
    """Path -> (media type, content), as ``write_bundle`` takes it.

    Args:
        weights: of the variant for each target.
        golden: the golden vectors of every variant.
        reference: the drift reference.
    """
    tensor = TensorSpec(name="x", dtype="float32", shape=[None, 1, 8, 8])
    variants = [
        Variant(
            target=target,
            runtime="onnxruntime",
            scheme="u8s8",
            file=f"variants/{target}.onnx",
            golden=f"golden/{target}.msgpack",
        )
        for target in weights
    ]
    model = ModelManifest(
        name=name,
        version=version,
        task="classification",
        inputs=[tensor],
        outputs=[tensor],
        labels=list(labels),
        preprocess=PreprocessSpec(),
        variants=variants,
        lineage=Lineage(
            source_digest="", calibration_digest="", test_digest="", tools={}, options={}
        ),
    )
    files = {
        "model.json": (WEIGHT_CONFIG, encode_json(model)),
        DRIFT_REFERENCE_FILE: (WEIGHT_CONFIG, reference),
        "evidence.json": (DOC, b"{}"),
    }
    for variant in variants:
        files[variant.file] = (WEIGHT, weights[variant.target])
        files[variant.golden] = (WEIGHT_CONFIG, golden)
    return files
