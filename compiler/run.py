"""``edge-compile run``: a bundle's answers to samples, through the code that the device runs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from compiler.datasets.load import load_frames
from compiler.errors import OutputError
from compiler.evaluate import Runner
from edge_contract.layout import BundleDir, unpack_tar, write_durably
from edge_contract.model import MODEL_FILE, decode_model_manifest
from edge_runtime.classes import ClassScores
from edge_runtime.tensors import Tensors


@dataclass(frozen=True)
class RunResult:
    """What was answered, by which bundle, and what ran it.

    rows: samples. values: numbers a sample, of all outputs together.
    classes: that a classifier tells apart; 0 for other models.
    """

    bundle_digest: str
    target: str
    rows: int
    values: int
    classes: int
    runs_on: str


def run_bundle(bundle: Path, target: str, inputs: Path, out: Path, workers: int = 1) -> RunResult:
    """Answer the samples ``x`` of ``inputs`` and write their scores as ``y`` to ``out``.

    Args:
        bundle: a bundle directory, or the same in one tar.
        target: a device profile that the bundle was compiled for.
        inputs: raw frames, in any form that calibration data may have.
        out: ``.npz`` with ``y``, float32 ``[n, ...]``, dequantised, or with an array for each of
            several outputs, by its name; replaced as a whole.
        workers: samples answered at the same time.

    Raises:
        CompileError: bad samples, or ``out`` cannot be written.
        ContractError: no bundle there, or not compiled for ``target``.
        TrustError: the bundle was damaged or tampered with.
    """
    if bundle.is_file():
        with TemporaryDirectory(prefix="edge-compile-") as scratch:
            unpacked = Path(scratch) / "bundle"
            unpack_tar(bundle, unpacked)
            return run_bundle(unpacked, target, inputs, out, workers)
    opened = BundleDir(bundle)
    manifest = decode_model_manifest(opened.read_file(MODEL_FILE), where=f"{bundle}/{MODEL_FILE}")
    variant = manifest.variant_for(target)
    runner = Runner(opened.read_file(variant.file), manifest, variant, workers)
    scores = runner.scores(
        load_frames(inputs, manifest.preprocess, [one.name for one in manifest.inputs]), "input"
    )
    packed = io.BytesIO()
    tensors = Tensors(manifest.outputs)
    parts = np.split(scores, np.cumsum(tensors.sizes)[:-1], axis=1)
    names = ("y",) if len(parts) == 1 else tensors.names
    arrays: dict[str, Any] = {
        name: part.reshape(len(part), *shape)
        for name, part, shape in zip(names, parts, tensors.shapes, strict=True)
    }
    np.savez(packed, **arrays)
    try:
        write_durably(out, packed.getvalue())
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}") from error
    return RunResult(
        bundle_digest=opened.digest,
        target=target,
        rows=len(scores),
        values=scores.shape[1],
        classes=ClassScores(manifest).count if manifest.task == "classification" else 0,
        runs_on=runner.runs_on,
    )
