"""Compiled bundles on emulated Cortex-A72 and Cortex-A76: the code and wheels that a Pi runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from compiler.cli import main
from compiler.proof.audit import INT8_KERNELS, optimised_graph
from device_configs.loader import load_profile
from edge_contract.layout import BundleDir
from edge_contract.model import MODEL_FILE, decode_model_manifest
from examples.digits.make_data import write_splits
from tests.device.board import ROOT, emulate

pytestmark = [pytest.mark.device, pytest.mark.timeout(900)]

PROBE = Path(__file__).with_name("probe.py")
DIGITS = ROOT / "examples" / "digits"
TARGETS = {"raspberry-pi-4": "s8s8", "raspberry-pi-5": "s8s8", "jetson-orin-nano": "s8s8-symmetric"}
"""Target -> the scheme that its variant is to have. A Jetson's is run by its CPU here."""

HWCAP_BITS = {"neon": 1, "crc32": 7, "fp16": 10, "dotprod": 20}
"""Bits of AT_HWCAP on arm64 (Linux, arch/arm64/include/uapi/asm/hwcap.h)."""


@dataclass(frozen=True)
class Probed:
    """What one CPU made of a bundle."""

    facts: dict[str, Any]
    arrays: dict[str, npt.NDArray[np.generic]]

    @property
    def inner(self) -> dict[str, npt.NDArray[np.generic]]:
        """The inner int8 tensors, ``[frames, ...]``, by name."""
        return {k: v for k, v in self.arrays.items() if k.startswith("inner:")}


@dataclass(frozen=True)
class Built:
    """A bundle, and two files for each scheme: with damaged weights, and with inner outputs."""

    bundle: Path
    folders: dict[str, Path]

    def arguments(self, target: str, out: Path) -> list[str | Path]:
        """For the probe."""
        return [self.bundle, target, self.folders[TARGETS[target]] / "damaged.onnx", out]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The digits example, built by the real compiler for every board."""
    folder = tmp_path_factory.mktemp("digits")
    write_splits(folder)
    words = ["build", str(DIGITS / "digits_float.onnx"), "--name", "digits", "--version", "1.0.0"]
    words += ["--preprocess", str(DIGITS / "preprocess.toml"), "--max-drop-pp", "1.5"]
    for target in TARGETS:
        words += ["--target", target]
    for split in ("calibration", "selection", "test"):
        words += [f"--{split}", str(folder / f"{split}.npz")]
    with pytest.raises(SystemExit) as ended:
        main.main([*words, "--out", str(folder / "out")])
    assert ended.value.code == 0
    bundle = BundleDir(folder / "out" / "bundle")
    manifest = decode_model_manifest(bundle.read_file(MODEL_FILE), where="test")
    assert {variant.target: variant.scheme for variant in manifest.variants} == TARGETS
    folders = {}
    for variant in manifest.variants:
        folders[variant.scheme] = place = folder / variant.scheme
        place.mkdir(exist_ok=True)
        model = onnx.load_model_from_string(bundle.read_file(variant.file))
        onnx.save(_damaged(model), place / "damaged.onnx")
        onnx.save(_with_inner_outputs(model), place / "inner.onnx")
    return Built(bundle.path, folders)


def _damaged(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with the output channels of its largest int8 weight in another order."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = [t for t in copy.graph.initializer if t.data_type == TensorProto.INT8 and t.dims]
    largest = max(weights, key=lambda t: int(np.prod(t.dims)))
    rolled = np.roll(numpy_helper.to_array(largest), 1, axis=0)
    largest.CopyFrom(numpy_helper.from_array(rolled, largest.name))
    return copy


def _with_inner_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with every int8 activation as an output, too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            copy.graph.output.append(
                onnx.helper.make_tensor_value_info(node.output[0], TensorProto.INT8, None)
            )
    return copy


@pytest.fixture(scope="session")
def hosts(built: Built, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Probed]:
    """What the machine of the compiler makes of the bundle, by target."""
    found: dict[str, Probed] = {}
    for target in TARGETS:
        out = tmp_path_factory.mktemp("host") / "host.npz"
        done = subprocess.run(
            [sys.executable, PROBE, *built.arguments(target, out)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
        )
        found[target] = _probed(done.stdout, out)
    return found


@pytest.fixture(scope="session", params=list(TARGETS))
def board(
    request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Probed]:
    """What an emulated board makes of it."""
    target: str = request.param
    out = tmp_path_factory.mktemp(target) / "board.npz"
    emulated = emulate(load_profile(target), tmp_path_factory.mktemp(f"{target}-root"))
    stdout = emulated.run(PROBE, *built.arguments(target, out))
    return target, _probed(stdout, out)


def _probed(stdout: str, out: Path) -> Probed:
    with np.load(out, allow_pickle=False) as arrays:
        return Probed(json.loads(stdout), dict(arrays))


def test_golden_vectors_agree_on_the_board(
    board: tuple[str, Probed], hosts: dict[str, Probed]
) -> None:
    target, probed = board
    host = hosts[target]
    assert probed.facts["machine"] == "aarch64"
    assert probed.facts["onnxruntime"] == host.facts["onnxruntime"]
    assert probed.facts["golden"]["passed"], probed.facts["golden"]["sentence"]


def test_damaged_weights_are_found_on_the_board(board: tuple[str, Probed]) -> None:
    _, probed = board
    assert not probed.facts["damaged"]["passed"], "the golden check cannot fail there"


def test_inner_int8_tensors_agree_with_the_compilers_machine(
    board: tuple[str, Probed], hosts: dict[str, Probed]
) -> None:
    target, probed = board
    host = hosts[target]
    assert len(host.inner) >= 3
    assert probed.inner.keys() == host.inner.keys()
    equal = total = largest = 0
    for name, expected in host.inner.items():
        actual = probed.inner[name]
        assert actual.dtype == expected.dtype == np.int8
        assert np.ptp(expected.astype(int)) > 50, f"{name} hardly varies and would prove nothing"
        difference = np.abs(actual.astype(int) - expected.astype(int))
        equal += int((difference == 0).sum())
        total += difference.size
        largest = max(largest, int(difference.max()))
    print(f"{target}: {equal} of {total} inner int8 values equal, largest difference {largest}")
    assert largest <= 1
    assert equal >= 0.999 * total


@pytest.mark.parametrize("target", TARGETS)
def test_the_file_with_inner_outputs_still_runs_int8_kernels(built: Built, target: str) -> None:
    def kernels(model: bytes) -> list[str]:
        graph = optimised_graph(model, TARGETS[target])
        return sorted(node.op_type for node in graph.node if node.op_type in INT8_KERNELS)

    bundle = BundleDir(built.bundle)
    manifest = decode_model_manifest(bundle.read_file(MODEL_FILE), where="test")
    own = kernels(bundle.read_file(manifest.variant_for(target).file))
    assert own
    inner = built.folders[TARGETS[target]] / "inner.onnx"
    assert kernels(inner.read_bytes()) == own


def test_the_emulated_cpu_has_the_instructions_that_its_profile_names(
    board: tuple[str, Probed],
) -> None:
    target, probed = board
    found = {name for name, bit in HWCAP_BITS.items() if probed.facts["hwcap"] >> bit & 1}
    assert found == set(load_profile(target).features)
