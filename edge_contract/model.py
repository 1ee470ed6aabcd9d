"""The typed model manifest inside a bundle (``model.json``): what the model is and how to run it.

Model, preprocessing, labels and thresholds stand in one document, so they change and roll back
as one.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edge_contract.codec import DOCUMENT_LIMIT_BYTES, decode_json
from edge_contract.errors import ContractError
from edge_contract.manifest import check_layer_path
from edge_contract.preprocess import PreprocessSpec

MODEL_FILE = "model.json"
DRIFT_REFERENCE_FILE = "drift-reference.msgpack"
EVIDENCE_FILE = "evidence.json"
MODEL_CARD_FILE = "model-card.md"

LineName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
"""A model line: lower-case letters, digits and '-'."""

Version = Annotated[
    str, msgspec.Meta(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]{1,40})?$")
]
"""A semantic version without build metadata."""


Runtime = Literal["onnxruntime", "litert"]
Int8Scheme = Literal["s8s8", "u8s8", "s8s8-symmetric"]
Scheme = Literal["s8s8", "u8s8", "s8s8-symmetric", "float32"]
Task = Literal["classification", "regression", "detection", "embedding"]
"""What the answers mean: scores of classes, numbers, boxes, or a vector to compare others with."""

SingleScore = Literal["probability", "logit"]
"""What the one score of a classifier with two classes is: class 1 above 0.5, or above 0."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output. ``None`` in ``shape`` is the batch; all other axes are static.

    The first axis is the batch where it is ``None`` or 1; an output without one stands whole.
    """

    name: str
    dtype: str
    shape: list[int | None]


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """The model as it runs on one target.

    ``runtime``: ``onnxruntime`` reads ONNX, ``litert`` (ai-edge-litert or tflite-runtime) .tflite.
    ``scheme`` names the int8 scheme: ``s8s8`` (ARM), ``u8s8`` (x86-64), ``s8s8-symmetric`` (zero
    points 0 and float biases, for TensorRT) or ``float32``.
    ``golden`` is the file of golden vectors made with this very variant.
    ``accelerator``: what the runtime is to use where it offers it; the CPU runs the rest.
    ``scale_cache``: activation scales as TensorRT's calibration cache, or "" where there is none.
    """

    target: str
    runtime: Runtime
    scheme: Scheme
    file: str
    golden: str
    accelerator: Literal["", "tensorrt"] = ""
    scale_cache: str = ""


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bundle came from: digests and options, never paths or times."""

    source_digest: str
    calibration_digest: str
    test_digest: str
    tools: dict[str, str]
    options: dict[str, str]


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True):
    """``model.json``. One ``Variant`` a target, each with its own golden vectors.

    inputs, outputs: in the order in which frames and answers hold them (``edge_runtime.tensors``).
    labels: names of the classes; empty where the task has none.
    single_score: where a classifier gives one value a frame, what that is; else it is not there.
    """

    schema: Literal[1] = 1
    name: LineName
    version: Version
    task: Task
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    labels: list[str]
    preprocess: PreprocessSpec
    variants: list[Variant]
    lineage: Lineage
    min_confidence: float = 0.0
    """Predictions below this are reported as "unsure"."""
    single_score: SingleScore | msgspec.UnsetType = msgspec.UNSET

    def variant_for(self, target: str) -> Variant:
        """The variant for a device profile.

        Raises:
            ContractError: the bundle was not compiled for it.
        """
        for variant in self.variants:
            if variant.target == target:
                return variant
        raise ContractError(
            f"{self.name} {self.version} has no variant for {target!r}; it was compiled for"
            f" {sorted(v.target for v in self.variants)}",
            hint=f"build it again with --target {target}",
        )


def decode_model_manifest(data: bytes, *, where: str) -> ModelManifest:
    """Parse and check ``model.json``.

    Raises:
        ContractError: malformed, no variant, two for one target, or a refused file path.
    """
    model = decode_json(data, ModelManifest, what=where, limit_bytes=DOCUMENT_LIMIT_BYTES)
    targets = [variant.target for variant in model.variants]
    if not targets or len(set(targets)) != len(targets):
        raise ContractError(f"{where}: expected one variant a target and at least one: {targets}")
    for variant in model.variants:
        check_layer_path(variant.file, where=where)
        check_layer_path(variant.golden, where=where)
        if variant.scale_cache:
            check_layer_path(variant.scale_cache, where=where)
    if not model.inputs or not model.outputs:
        raise ContractError(f"{where}: expected at least one input and one output")
    _check_single_score(model, where)
    return model


def _check_single_score(model: ModelManifest, where: str) -> None:
    """One value tells two classes apart only where it is said what it is; many need no word."""
    shape = model.outputs[0].shape
    single = model.task == "classification" and all(size in (None, 1) for size in shape)
    if single and model.single_score is msgspec.UNSET:
        raise ContractError(
            f"{where}: the classifier gives one value a frame ({model.outputs[0].name!r} {shape});"
            " expected single_score to say whether it is a probability or a logit"
        )
    if not single and model.single_score is not msgspec.UNSET:
        raise ContractError(
            f"{where}: single_score is {model.single_score!r}, but that is for classifiers whose"
            f" first output has one value; task {model.task}, {model.outputs[0].name!r} {shape}"
        )
    if single and len(model.labels) != 2:
        raise ContractError(
            f"{where}: one score tells two classes apart, but there are {len(model.labels)} labels"
        )
