"""One network as .onnx and as .tflite: plans of equal fidelity, and files for both runtimes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from compiler.build import build
from compiler.metrics.measure import Limits
from compiler.options import BuildOptions
from compiler.tflite.to_onnx import tflite_to_onnx
from edge_contract.golden import decode_golden
from edge_contract.layout import BundleDir
from edge_runtime.golden import from_tensor
from tests.tflite.networks import NETWORKS
from tests.tflite.old_runtime import OldRuntime
from tests.tflite.test_emit import SHARED, frames, run_float, run_int8

AGREEMENT_DIFFERENCE_MAX = 0.005


@dataclass(frozen=True)
class Network:
    """The same network in two files, and its data."""

    name: str
    sources: tuple[Path, Path]
    calibration: Path
    test: Path


def own_network(folder: Path) -> Network:
    """A random network; its labels are its own answers."""
    data = NETWORKS["ds_cnn"]()
    model = tflite_to_onnx("own", data)
    sources = (folder / "own.onnx", folder / "own.tflite")
    onnx.save(model, sources[0])
    sources[1].write_bytes(data)
    for name, rows, seed in (("calibration", 120, 1), ("test", 800, 2)):
        x = frames(model, rows, seed)
        np.savez(folder / f"{name}.npz", x=x[:, 0], y=run_float(model, x).argmax(1))
    return Network("own", sources, folder / "calibration.npz", folder / "test.npz")


@pytest.fixture(params=["own", "kws", "ic"])
def network(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Network:
    """A network of our own, and the shared ones where they are at hand."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name: str = request.param
    if name == "own":
        return own_network(tmp_path)
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no data of the model {name!r}: set WHERRY_SHARED to their folder")
    test = tmp_path / "test.npz"
    with np.load(folder / "test.npz") as file:
        np.savez(test, x=file["x"][:1000], y=file["y"][:1000])
    sources = (folder / f"{name}_float.onnx", folder / f"{name}_float.tflite")
    return Network(name, sources, folder / "calibration.npz", test)


def test_both_sources_give_plans_of_equal_fidelity_and_a_file_for_both_runtimes(
    network: Network, tmp_path: Path, old_runtime: OldRuntime
) -> None:
    reports = []
    for source in network.sources:
        out = tmp_path / f"out{source.suffix}"
        options = BuildOptions(
            model=source,
            name=network.name,
            version="1.0.0",
            targets=("raspberry-pi-4",),
            calibration=network.calibration,
            test=network.test,
            out=out,
            limits=Limits(max_drop_pp=10),
            effort="fast",
            format="tflite",
        )
        reports.append(build(options, clock=time.monotonic))
    assert [report.verdict for report in reports] == ["pass", "pass"]
    agreements = [report.targets[0].comparison.agreement for report in reports]
    assert abs(agreements[0] - agreements[1]) <= AGREEMENT_DIFFERENCE_MAX
    assert all(report.targets[0].audit.macs_share == 1 for report in reports)
    bundle = BundleDir(tmp_path / "out.tflite" / "bundle")
    data = bundle.read_file("tflite-s8s8/model.tflite")
    with np.load(network.test) as file:
        x = file["x"][:200, None].astype(np.float32)
    old, _ = old_runtime.answer(data, x, tmp_path)
    new = run_int8(data, x)
    # Kernels of both round apart by a step here and there.
    assert (old.argmax(1) == new.argmax(1)).mean() >= 0.95
    golden = decode_golden(bundle.read_file("tflite-s8s8/golden.msgpack"), where="golden")
    answers, _ = old_runtime.answer(
        data, from_tensor(golden.frames)[:, None].astype(np.float32), tmp_path
    )
    expected = from_tensor(golden.scores)
    assert np.abs(answers - expected).max() <= golden.tolerance_abs
    assert (answers.argmax(1) == expected.argmax(1)).all()
