"""``edge-compile run``: a bundle's answers to samples, through the code that the device runs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compiler.bundle.facts import bundle_path, opened_bundle, read_manifest
from compiler.datasets.load import load_frames
from compiler.errors import CompileError, OutputError
from compiler.proof.evaluate import Runner
from device_configs.suggest import suggest
from edge_contract.errors import ExitCode
from edge_contract.layout import write_durably
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
        bundle: a bundle directory, the same in one tar, or the directory of a build.
        target: a device profile that the bundle was compiled for.
        inputs: raw frames, in any form that calibration data may have.
        out: ``.npz`` with ``y``, float32 ``[n, ...]``, dequantised, or with an array for each of
            several outputs, by its name; replaced as a whole.
        workers: samples answered at the same time.

    Raises:
        CompileError: no bundle there, bad samples, or ``out`` cannot be written.
        ContractError: not compiled for ``target``.
        TrustError: the bundle was damaged or tampered with.
    """
    place = bundle_path(bundle)
    if place is None:
        raise CompileError(
            f"no bundle at {bundle}",
            hint="a bundle is the directory `bundle/` that `edge-compile build` writes",
            exit_code=ExitCode.NOT_FOUND,
        )
    with opened_bundle(place) as opened:
        manifest = read_manifest(opened)
        known = [one.target for one in manifest.variants]
        meant = [] if target in known else suggest(target, known)
        if meant:
            raise CompileError(
                f"{manifest.name} {manifest.version} has no variant for {target!r}; did you mean"
                f" {' or '.join(meant)}?",
                hint=f"--target {meant[0]}",
                exit_code=ExitCode.NOT_FOUND,
            )
        variant = manifest.variant_for(target)
        runner = Runner(opened.read_file(variant.file), manifest, variant, workers)
        digest = opened.digest
    frames = load_frames(inputs, manifest.preprocess, [one.name for one in manifest.inputs])
    scores = runner.scores(frames, "input")
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
        bundle_digest=digest,
        target=target,
        rows=len(scores),
        values=scores.shape[1],
        classes=ClassScores(manifest).count if manifest.task == "classification" else 0,
        runs_on=runner.runs_on,
    )
