"""Runs on an emulated board, and on the host beside it: what this CPU makes of a bundle.

``probe.py BUNDLE TARGET DAMAGED OUT``: checks the golden vectors with the bundle's own variant and
with the file DAMAGED in its place, runs the golden frames through a copy of the variant that hands
out its inner int8 tensors, DAMAGED's neighbour ``inner.onnx``, and writes all of it to OUT (.npz).
stdout: one JSON document.
"""

from __future__ import annotations

import ctypes
import json
import platform
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edge_contract.golden import decode_golden
from edge_contract.layout import BundleDir
from edge_contract.model import MODEL_FILE, decode_model_manifest
from edge_runtime.golden import check_golden, from_tensor
from edge_runtime.onnx_session import session_options
from edge_runtime.session import ModelSession

AT_HWCAP = 16
"""The auxiliary vector's entry that holds a CPU's features (getauxval(3))."""


def main(bundle: Path, target: str, damaged: Path, out: Path) -> None:
    """Answer, write, print."""
    opened = BundleDir(bundle)
    manifest = decode_model_manifest(opened.read_file(MODEL_FILE), where="probe")
    variant = manifest.variant_for(target)
    golden = decode_golden(opened.read_file(variant.golden), where="probe")
    session = ModelSession(opened.read_file(variant.file), manifest, variant)
    good = check_golden(session, golden)
    bad = check_golden(ModelSession(damaged, manifest, variant), golden)
    frames = from_tensor(golden.frames)
    inner = ort.InferenceSession(
        str(damaged.with_name("inner.onnx")),
        session_options(variant.scheme),
        providers=["CPUExecutionProvider"],
    )
    names = [output.name for output in inner.get_outputs() if output.type == "tensor(int8)"]
    (entry,) = inner.get_inputs()
    rows = [inner.run(names, {entry.name: session.preprocessor(frame)}) for frame in frames]
    arrays = {
        f"inner:{name}": np.stack([row[index] for row in rows]) for index, name in enumerate(names)
    }
    np.savez(out, scores=session.scores(frames), **arrays)
    auxiliary = ctypes.CDLL(None).getauxval
    auxiliary.restype = ctypes.c_ulong
    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "hwcap": auxiliary(AT_HWCAP),
                "onnxruntime": ort.__version__,
                "golden": {"passed": good.passed, "sentence": good.sentence()},
                "damaged": {"passed": bad.passed, "sentence": bad.sentence()},
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
