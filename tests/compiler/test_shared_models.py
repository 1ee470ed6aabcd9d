"""The same promises on real models, where their data are at hand.

They belong to others and are not part of the project: ``WHERRY_SHARED`` or ``../shared/data``
beside the repository says where they are.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.compiler.conftest import Command

SHARED = Path(os.environ.get("WHERRY_SHARED") or Path(__file__).parents[3] / "shared" / "data")


def arguments(name: str, out: Path, max_drop_pp: float) -> list[str]:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no data of the model {name!r}: set WHERRY_SHARED to their folder")
    return [
        "build",
        str(folder / f"{name}_float.onnx"),
        *("--name", name, "--version", "1.0.0", "--target", "raspberry-pi-4"),
        *("--calibration", str(folder / "calibration.npz")),
        *("--test", str(folder / "test.npz")),
        *("--max-drop-pp", str(max_drop_pp), "--out", str(out), "--json", "--threads", "2"),
        # The longer search is compared with peers by benchmarks/quantize.py.
        *("--effort", "fast"),
    ]


@pytest.mark.parametrize(
    ("name", "max_drop_pp", "agreement", "size_share"),
    [("kws", 3, 0.985, 0.45), ("ic", 1, 0.955, 0.31)],
)
def test_a_real_model_passes_with_every_layer_in_int8(
    edge_compile: Command,
    tmp_path: Path,
    name: str,
    max_drop_pp: float,
    agreement: float,
    size_share: float,
) -> None:
    ended = edge_compile(arguments(name, tmp_path / "out", max_drop_pp))
    assert ended.code == 0
    report = ended.json
    assert not [warning for warning in report["warnings"] if "preprocessing" in warning]
    assert report["int8_ops"]["seen"] == report["int8_ops"]["expected"] == 10
    assert report["int8_ops"]["macs_share"] == 1
    assert report["agreement"] >= agreement
    assert report["bytes"]["int8"] <= size_share * report["bytes"]["float"]
