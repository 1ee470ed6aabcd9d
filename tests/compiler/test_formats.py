"""What a target gets: one word for each scheme, and bundles that hold more than s8s8 ONNX."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

import compiler.proof.audit
from compiler.bundle.formats import planned_variant
from device_configs.loader import load_profile
from edge_agent.infer.model import load_model
from edge_contract.layout import BundleDir
from edge_contract.model import MODEL_FILE, decode_model_manifest
from edge_runtime.errors import ModelRuntimeError
from edge_runtime.native_log import without_chatter
from edge_runtime.onnx_session import CPU, TENSORRT, providers_for
from edge_runtime.session import open_runtime
from tests.compiler.conftest import Command, Small

ORIN = "jetson-orin-nano"
Monkey = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's builds lie."""
    return tmp_path_factory.mktemp("formats")


@pytest.fixture
def tflite(built: Path, small: Small, edge_compile: Command) -> Path:
    """A finished .tflite build."""
    out = built / "tflite"
    if not out.exists():
        ended = edge_compile(small.arguments(out, "--format", "tflite", effort="fast"))
        assert ended.code == 0, ended.stderr
        # LiteRT's announcement of its delegate is no progress of ours.
        assert "packing the bundle" in ended.stderr
        assert "INFO" not in ended.stderr
    return out


@pytest.fixture
def jetson(built: Path, small: Small, edge_compile: Command) -> Path:
    """A finished build for a Jetson."""
    out = built / "jetson"
    if not out.exists():
        ended = edge_compile(small.arguments(out, target=ORIN, effort="fast"))
        assert ended.code == 0, ended.stderr
    return out


def unpacked(bundle: Path, place: Path) -> Path:
    """The bundle's files as a device's slot holds them."""
    opened = BundleDir(bundle)
    for layer in opened.manifest.layers:
        file = place / layer.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(opened.read_file(layer.path))
    return place


@pytest.mark.parametrize(
    ("target", "wanted", "runtime", "scheme", "file"),
    [
        ("raspberry-pi-4", None, "onnxruntime", "s8s8", "onnx-s8s8/model.onnx"),
        ("generic-x86-64", None, "onnxruntime", "u8s8", "onnx-u8s8/model.onnx"),
        (ORIN, None, "onnxruntime", "s8s8-symmetric", "onnx-s8s8-symmetric/model.onnx"),
        ("jetson-nano", None, "onnxruntime", "s8s8", "onnx-s8s8/model.onnx"),
        ("raspberry-pi-4", "tflite", "litert", "s8s8", "tflite-s8s8/model.tflite"),
        ("generic-x86-64", "tflite", "litert", "s8s8", "tflite-s8s8/model.tflite"),
        (ORIN, "tflite", "litert", "s8s8", "tflite-s8s8/model.tflite"),
    ],
)
def test_the_profile_decides_and_the_format_may_be_asked_for(
    target: str, wanted: str | None, runtime: str, scheme: str, file: str
) -> None:
    variant = planned_variant(load_profile(target), wanted)
    assert (variant.runtime, variant.scheme, variant.file) == (runtime, scheme, file)


def test_a_profile_may_say_litert() -> None:
    profile = msgspec.structs.replace(load_profile("raspberry-pi-4"), runtime="litert")
    assert planned_variant(profile).file == "tflite-s8s8/model.tflite"
    assert planned_variant(profile, "onnx").file == "onnx-s8s8/model.onnx"


def test_tensorrt_runs_where_the_profile_names_it_and_onnxruntime_offers_it() -> None:
    orin, pi = (planned_variant(load_profile(name)) for name in (ORIN, "raspberry-pi-4"))
    assert [name for name, _ in providers_for(orin, [TENSORRT, CPU])] == [TENSORRT, CPU]
    assert [name for name, _ in providers_for(orin, [CPU])] == [CPU]
    assert [name for name, _ in providers_for(pi, [TENSORRT, CPU])] == [CPU]


def test_a_jetson_bundle_is_symmetric_and_carries_its_scale_cache(jetson: Path) -> None:
    bundle = BundleDir(jetson / "bundle")
    manifest = decode_model_manifest(bundle.read_file(MODEL_FILE), where="m")
    (variant,) = manifest.variants
    assert (variant.scheme, variant.accelerator) == ("s8s8-symmetric", "tensorrt")
    model = onnx.load_model_from_string(bundle.read_file(variant.file))
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert pairs
    assert not any(values[node.input[2]].any() for node in pairs)
    assert np.dtype(np.int32) not in {value.dtype for value in values.values()}
    first, *lines = bundle.read_file(variant.scale_cache).decode().splitlines()
    assert first.startswith("TRT-")
    made = {name for node in model.graph.node for name in (*node.input, *node.output)}
    assert {line.split(": ")[0] for line in lines} <= made


@pytest.mark.parametrize("name", ["tflite", "jetson"])
def test_a_device_loads_tests_and_runs_the_variant(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle = BundleDir(request.getfixturevalue(name) / "bundle")
    manifest = decode_model_manifest(bundle.read_file(MODEL_FILE), where="m")
    slot = unpacked(bundle.path, tmp_path / "slot")
    loaded = load_model(slot, bundle.digest, "a", manifest.variants[0].target, 1)
    assert loaded.self_test().passed
    assert loaded.session.runs_on.startswith("ai-edge-litert" if name == "tflite" else "onnxrun")


def test_a_tflite_build_is_proven_in_int8_and_can_be_inspected_compared_and_run(
    tflite: Path,
    jetson: Path,
    small: Small,
    edge_compile: Command,
    tmp_path: Path,
) -> None:
    facts = edge_compile(["inspect", str(tflite), "--json"]).json
    (variant,) = facts["variants"]
    assert (variant["runtime"], variant["scheme"]) == ("litert", "s8s8")
    assert variant["evidence"]["int8_ops"]["macs_share"] == 1
    assert variant["evidence"]["int8_ops"]["macs"] == variant["model"]["macs"]
    assert {layer["weight_dtype"] for layer in variant["model"]["layers"]} == {"int8"}
    assert "ai-edge-litert" in facts["lineage"]["tools"]
    found = edge_compile(["compare", str(tflite), str(tflite), "--json"]).json
    assert found["identical"]
    assert {layer["changed_share"] for layer in found["targets"][0]["layers"]} == {0}
    words = ["--target", "raspberry-pi-4", "--inputs", str(small.test)]
    ended = edge_compile(["run", str(tflite / "bundle"), *words, "--out", str(tmp_path / "y.npz")])
    assert ended.code == 0
    with np.load(tmp_path / "y.npz") as scores, np.load(small.test) as test:
        accuracy = float((scores["y"].argmax(1) == test["y"]).mean())
    assert accuracy == pytest.approx(variant["evidence"]["int8"]["accuracy"])


def test_two_tflite_builds_are_the_same_bytes_with_one_and_two_threads(
    tflite: Path, small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    words = ["--format", "tflite", "--threads", "2"]
    assert edge_compile(small.arguments(tmp_path / "out", *words, effort="fast")).code == 0
    assert BundleDir(tmp_path / "out" / "bundle").digest == BundleDir(tflite / "bundle").digest


def test_what_tflite_cannot_hold_is_refused_before_any_work_with_the_sources_names(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    model = onnx.load(small.model)
    for node in model.graph.node:
        if node.name in ("n/r2", "n/r3"):
            node.op_type = "Erf"
    onnx.save(model, tmp_path / "erf.onnx")
    words = small.arguments(tmp_path / "out", "--format", "tflite", model=tmp_path / "erf.onnx")
    ended = edge_compile(words)
    assert ended.code == 1
    assert "cannot be written to .tflite: Erf (n/r2, n/r3)" in ended.stderr
    assert "calibrating" not in ended.stderr


def test_a_missing_runtime_says_what_to_install(tflite: Path, monkeypatch: Monkey) -> None:
    bundle = BundleDir(tflite / "bundle")
    (variant,) = decode_model_manifest(bundle.read_file(MODEL_FILE), where="m").variants
    gone = {"ai-edge-litert": "no_such_runtime.a", "tflite-runtime": "no_such_runtime.b"}
    monkeypatch.setattr("edge_runtime.litert_session.RUNTIMES", gone)
    with pytest.raises(ModelRuntimeError, match="LiteRT, which is not installed") as caught:
        open_runtime(bundle.read_file(variant.file), variant)
    assert caught.value.hint == "pip install 'wherry[tflite]'"


def test_only_known_chatter_of_a_native_library_is_left_out(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def load() -> None:
        with without_chatter():
            os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
            os.write(2, b"ERROR: no kernel\nINFO: a line of another thread\n")
            raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        load()
    os.write(2, b"after")
    assert capfd.readouterr().err == "ERROR: no kernel\nINFO: a line of another thread\nafter"


@pytest.mark.parametrize("broken", ["full disk", "closed pipe"])
def test_a_log_that_takes_no_more_neither_stops_a_model_nor_loses_stderr(broken: str) -> None:
    code = (
        "import os, sys\n"
        "from edge_runtime.native_log import without_chatter\n"
        "own = os.fstat(2)\n"
        "with without_chatter():\n"
        "    os.write(2, b'WARNING: one kernel is slow\\n')\n"
        "    print('half a line', end='', file=sys.stderr)\n"
        "assert os.path.samestat(own, os.fstat(2))\n"
        "os.write(1, b'loaded')\n"
        "os._exit(0)\n"  # else Python itself complains that it cannot flush
    )
    if broken == "full disk":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        read, stderr = os.pipe()
        os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=60,
        )
    finally:
        os.close(stderr)
    assert (ended.returncode, ended.stdout) == (0, b"loaded")


def test_a_runtime_that_imports_but_cannot_load_is_passed_over(
    tflite: Path, monkeypatch: Monkey, tmp_path: Path
) -> None:
    (tmp_path / "broken_runtime.py").write_text(
        "class Interpreter:\n"
        "    def __init__(self, **_):\n"
        "        raise AttributeError('_ARRAY_API not found')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    bundle = BundleDir(tflite / "bundle")
    (variant,) = decode_model_manifest(bundle.read_file(MODEL_FILE), where="m").variants
    data = bundle.read_file(variant.file)
    both = {"old": "broken_runtime", "ai-edge-litert": "ai_edge_litert.interpreter"}
    monkeypatch.setattr("edge_runtime.litert_session.RUNTIMES", both)
    assert open_runtime(data, variant).runs_on == "ai-edge-litert"
    monkeypatch.setattr("edge_runtime.litert_session.RUNTIMES", {"old": "broken_runtime"})
    with pytest.raises(ModelRuntimeError, match="old: _ARRAY_API not found"):
        open_runtime(data, variant)


def test_a_layer_that_runs_float_against_the_plan_fails_the_build(
    small: Small,
    edge_compile: Command,
    monkeypatch: Monkey,
    tmp_path: Path,
) -> None:
    # A runtime without int8 convolutions, as the audit sees one.
    monkeypatch.setattr(compiler.proof.audit, "INT8_KERNELS", frozenset({"QGemm"}))
    monkeypatch.setattr(
        compiler.proof.audit,
        "_FLOAT_KERNELS",
        compiler.proof.audit._FLOAT_KERNELS | {"QLinearConv"},
    )
    ended = edge_compile(small.arguments(tmp_path / "out", "--json", effort="fast"))
    assert ended.code == 5
    report = ended.json
    assert report["verdict"] == "fail"
    assert "the audit found 3 of 4 layers in float that the plan runs in int8" in report["reason"]
    assert "MACs" in report["reason"]
    assert not (tmp_path / "out" / "bundle").exists()
