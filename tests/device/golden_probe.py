"""Runs on an emulated board: ``golden_probe.py BUNDLE TARGET`` checks the golden vectors.

They are checked with the bundle's own variant, then with each frame's answer given to the next one,
which must be found. stdout: one JSON document.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import msgspec
import numpy as np

from edge_contract.golden import decode_golden
from edge_contract.layout import BundleDir
from edge_contract.model import MODEL_FILE, decode_model_manifest
from edge_runtime.golden import check_golden, from_tensor, to_tensor
from edge_runtime.session import ModelSession


def main(bundle: Path, target: str) -> None:
    """Answer and print."""
    opened = BundleDir(bundle)
    manifest = decode_model_manifest(opened.read_file(MODEL_FILE), where="probe")
    variant = manifest.variant_for(target)
    golden = decode_golden(opened.read_file(variant.golden), where="probe")
    session = ModelSession(opened.read_file(variant.file), manifest, variant)
    good = check_golden(session, golden)
    rolled = to_tensor(np.roll(from_tensor(golden.scores), 1, axis=0))
    bad = check_golden(session, msgspec.structs.replace(golden, scores=rolled))
    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "runs_on": session.runs_on,
                "passed": good.passed,
                "sentence": good.sentence(),
                "difference_max": good.difference_max,
                "tolerance": good.tolerance,
                "wrong_passed": bad.passed,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
