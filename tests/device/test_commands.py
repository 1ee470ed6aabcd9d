"""The commands that look and compare: their words, their JSON, their exit codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import onnx
import pytest

from compiler.cli import JsonErrorGroup, main
from compiler.commands.compare import compare
from compiler.commands.doctor import doctor as doctor_command
from compiler.commands.doctor import examine
from compiler.commands.inspect import inspect
from compiler.commands.targets import read_profiles, targets
from device_configs.loader import BUNDLED_DIR
from edge_contract.layout import BundleDir, pack_tar
from tests.compiler.conftest import Ended
from tests.compiler.models import frames, small_cnn, write_npz

Command = Callable[..., Ended]
COMMANDS = (targets, inspect, compare, doctor_command)


@pytest.fixture
def tool(capfd: pytest.CaptureFixture[str]) -> Command:
    """The commands in a group as ``edge-compile`` is one."""
    group = JsonErrorGroup(commands={str(command.name): command for command in COMMANDS})

    def run(*words: str | Path) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            group.main([str(word) for word in words], "edge-compile")
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out, err)

    return run


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two builds of one model, of unlike calibration data, and the float model beside them."""
    folder = tmp_path_factory.mktemp("builds")
    onnx.save(small_cnn(), folder / "model.onnx")
    for name, rows, seed in (("one", 80, 11), ("two", 80, 21), ("test", 500, 13)):
        x, y = frames(rows, seed)
        write_npz(folder / f"{name}.npz", x=x, y=y)
    for name, target in (("one", "generic-x86-64"), ("two", "raspberry-pi-5")):
        words = ["build", str(folder / "model.onnx"), "--name", "stripes", "--version", "1.0.0"]
        words += ["--target", "raspberry-pi-4", "--target", target, "--max-drop-pp", "3"]
        words += ["--calibration", str(folder / f"{name}.npz"), "--test", str(folder / "test.npz")]
        with pytest.raises(SystemExit) as ended:
            main.main([*words, "--out", str(folder / f"build-{name}")])
        assert ended.value.code == 0
    return {
        "model": folder / "model.onnx",
        "one": folder / "build-one",
        "two": folder / "build-two",
    }


# --- targets


def test_targets_lists_every_profile_with_sources_in_json(tool: Command) -> None:
    ended = tool("targets", "--json")
    assert ended.code == 0
    found = {target["id"]: target for target in ended.json["targets"]}
    assert {"raspberry-pi-zero-2-w", "jetson-agx-orin", "generic-x86-64"} <= set(found)
    assert found["raspberry-pi-4"]["sources"]["memory_mb"]
    assert found["jetson-orin-nano"]["scheme"] == "s8s8-symmetric"
    text = tool("targets").stdout
    assert re.search(r"raspberry-pi-5 +4 x Cortex-A76 +2048 MB .* dotprod", text)


def test_a_malformed_profile_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('id = "mine"\n')
    profiles, broken = read_profiles(tmp_path)
    assert len(profiles) == len(list(BUNDLED_DIR.glob("*.toml")))
    assert list(broken) == ["mine"]


# --- inspect


def test_inspect_shows_what_is_in_a_float_model(tool: Command, builds: dict[str, Path]) -> None:
    ended = tool("inspect", builds["model"], "--json")
    assert ended.code == 0
    facts = ended.json
    assert facts["kind"] == "model"
    report = json.loads((builds["one"] / "report.json").read_text())
    assert facts["digest"] == report["lineage"]["source_digest"]
    assert facts["size_bytes"] == builds["model"].stat().st_size
    assert facts["macs"] == report["int8_ops"]["macs"]
    assert sum(layer["macs"] for layer in facts["layers"]) == facts["macs"]
    assert facts["ops"]["Conv"] == sum(layer["op"] == "Conv" for layer in facts["layers"])
    assert set(facts["stored_bytes"]) <= {"float", "int64"}
    assert f"{facts['macs']:,} for one frame" in tool("inspect", builds["model"]).stdout


def test_inspect_shows_a_bundle_its_variants_and_what_was_proven(
    tool: Command, builds: dict[str, Path], tmp_path: Path
) -> None:
    facts = tool("inspect", builds["one"] / "bundle", "--json").json
    report = json.loads((builds["one"] / "report.json").read_text())
    assert facts["kind"] == "bundle"
    assert facts["digest"] == report["bundle_digest"]
    assert [v["scheme"] for v in facts["variants"]] == ["s8s8", "u8s8"]
    for variant in facts["variants"]:
        assert variant["model"]["macs"] == report["int8_ops"]["macs"]
        assert "int8" in variant["model"]["stored_bytes"]
        assert all(layer["weight_dtype"] == "int8" for layer in variant["model"]["layers"])
        assert variant["evidence"]["verdict"] == "pass"
    assert {file["path"] for file in facts["files"]} >= {"model.json", "evidence.json"}
    pack_tar(BundleDir(builds["one"] / "bundle"), tmp_path / "bundle.tar")
    for other in (builds["one"], tmp_path / "bundle.tar"):
        assert tool("inspect", other, "--json").json == facts
    text = tool("inspect", builds["one"]).stdout
    assert re.search(r"raspberry-pi-4 +onnxruntime +s8s8 .* pass", text)
    assert facts["digest"] in text


def test_inspect_takes_a_model_with_free_axes_and_external_data(
    tool: Command, tmp_path: Path
) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        " g (float[n, 3, h, w] x) => (float[n, 4, p, q] y) { y = Conv(x, k) }"
    )
    kernel = np.ones((4, 3, 3, 3), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "k"))
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0
    )
    facts = tool("inspect", tmp_path / "m.onnx", "--json").json
    assert facts["inputs"] == [{"name": "x", "dtype": "float", "shape": ["n", 3, "h", "w"]}]
    assert facts["macs"] is None
    files = ("m.onnx", "m.bin")
    assert facts["size_bytes"] == sum((tmp_path / name).stat().st_size for name in files)
    assert "not known for one frame" in tool("inspect", tmp_path / "m.onnx").stdout
    (tmp_path / "m.bin").unlink()
    ended = tool("inspect", tmp_path / "m.onnx", "--json")
    assert ended.code == 1
    assert "m.bin" in ended.json["error"]


def test_inspect_takes_a_float_tflite_model(tool: Command, tmp_path: Path) -> None:
    # Imported here: it needs ai-edge-litert, which the other commands do without.
    from tests.tflite.networks import NETWORKS

    path = tmp_path / "m.tflite"
    path.write_bytes(NETWORKS["ds_cnn"]())
    facts = tool("inspect", path, "--json").json
    assert facts["size_bytes"] == path.stat().st_size
    assert facts["macs"] > 0
    assert {layer["weight_dtype"] for layer in facts["layers"]} == {"float32"}


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 3, "no model or bundle"),
        (b"", 1, "cut short"),
        (b"not a model at all", 1, "not an ONNX file"),
        (b"\x1c\0\0\0TFL3", 1, "file"),
        (b"\0" * 257 + b"ustar" + b"\0" * 250, 1, "tar"),
    ],
)
def test_inspect_refuses_what_is_neither_model_nor_bundle(
    tool: Command, tmp_path: Path, content: bytes | None, code: int, message: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    ended = tool("inspect", path, "--json")
    assert ended.code == code, ended.stdout
    assert message in ended.json["error"]


def test_inspect_says_that_a_directory_holds_no_bundle(tool: Command, tmp_path: Path) -> None:
    ended = tool("inspect", tmp_path, "--json")
    assert ended.code == 3
    assert "holds none" in ended.json["error"]


def test_inspect_finds_a_damaged_bundle(
    tool: Command, builds: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(builds["one"] / "bundle", tmp_path / "bundle")
    digest = BundleDir(tmp_path / "bundle").manifest.layer("onnx-s8s8/model.onnx").digest
    blob = tmp_path / "bundle" / "blobs" / "sha256" / digest.removeprefix("sha256:")
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert tool("inspect", tmp_path / "bundle", "--json").code == 4
    assert tool("compare", tmp_path / "bundle", builds["one"], "--json").code == 4


# --- compare


def test_a_bundle_is_identical_to_itself(tool: Command, builds: dict[str, Path]) -> None:
    found = tool("compare", builds["one"], builds["one"] / "bundle", "--json").json
    assert found["identical"]
    assert found["lineage"] == {}
    for target in found["targets"]:
        assert {layer["changed_share"] for layer in target["layers"]} == {0}
        assert target["answers"]["agreement"] == 1
        assert target["answers"]["difference_max"] == 0


def test_compare_shows_figures_layers_and_answers_of_two_bundles(
    tool: Command, builds: dict[str, Path]
) -> None:
    ended = tool("compare", builds["one"], builds["two"], "--json")
    assert ended.code == 0
    found = ended.json
    assert not found["identical"]
    assert list(found["lineage"]) == ["calibration"]
    assert found["only_a"] == ["generic-x86-64"]
    assert found["only_b"] == ["raspberry-pi-5"]
    (target,) = found["targets"]
    assert target["target"] == "raspberry-pi-4"
    reports = [json.loads((builds[n] / "report.json").read_text()) for n in ("one", "two")]
    assert target["figures"]["accuracy"] == [r["int8"]["accuracy"] for r in reports]
    assert target["figures"]["bytes"] == [r["bytes"]["int8"] for r in reports]
    assert len(target["layers"]) == reports[0]["int8_ops"]["expected"]
    assert all(layer["changed_share"] is not None for layer in target["layers"])
    assert 0.5 < target["answers"]["agreement"] <= 1
    assert target["answers"]["difference_max"] > 0
    text = tool("compare", builds["one"], builds["two"]).stdout
    assert "the bundles differ" in text
    assert "only in B: raspberry-pi-5" in text
    assert re.search(r"golden frames of A: .* agree, SNR", text)


def test_a_changed_layer_is_named(builds: dict[str, Path]) -> None:
    from compiler.graph.describe import weights_of
    from compiler.proof.comparison import LayerDifference, compare_layers

    bundle = BundleDir(builds["one"] / "bundle")
    model = onnx.load_model_from_string(bundle.read_file("onnx-s8s8/model.onnx"))
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    first = next(node for node in changed.graph.node if node.op_type == "Conv")
    maker = next(node for node in changed.graph.node if first.input[1] in node.output)
    weight = next(t for t in changed.graph.initializer if t.name == maker.input[0])
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    found = {layer.layer: layer for layer in compare_layers(weights_of(model), weights_of(changed))}
    assert isinstance(found[first.name], LayerDifference)
    assert found[first.name].changed_share == pytest.approx(1 / values.size)
    assert {layer.changed_share for name, layer in found.items() if name != first.name} == {0}


def test_reports_are_compared_without_layers(tool: Command, builds: dict[str, Path]) -> None:
    words = (builds["one"] / "report.json", builds["two"] / "report.json")
    found = tool("compare", *words, "--json").json
    (target,) = found["targets"]
    assert None not in target["figures"]["accuracy"]
    assert target["layers"] == []
    assert target["answers"] is None
    assert "two bundles only" in found["notes"][0]
    assert None not in found["digest"]


@pytest.mark.parametrize(
    ("text", "code"), [(None, 3), ("{", 1), ("{}", 1), ('{"name": "x", "version": "1"}', 1)]
)
def test_compare_refuses_what_is_no_build(
    tool: Command, builds: dict[str, Path], tmp_path: Path, text: str | None, code: int
) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    ended = tool("compare", builds["one"], path, "--json")
    assert ended.code == code
    assert ended.json["error"]


# --- doctor


def test_doctor_finds_this_machine_well(tool: Command, tmp_path: Path) -> None:
    ended = tool("doctor", "--out", tmp_path, "--json")
    assert ended.code == 0, ended.stdout
    checks = {check["check"] for check in ended.json["checks"]}
    assert {"onnxruntime", "cv2", "output", "scratch", "profiles"} <= checks
    assert "ok   onnxruntime" in tool("doctor", "--out", tmp_path / "not" / "yet").stdout


def test_doctor_names_a_missing_package_a_full_place_and_a_bad_profile(
    tool: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "mine.toml").write_text("id = 7")
    checks = list(examine(tmp_path / "file" / "out", tmp_path))
    failed = {check.check: check for check in checks if not check.ok}
    assert set(failed) == {"cv2", "output", "profiles"}
    assert all(check.hint for check in failed.values())
    assert "wherry[compile]" in failed["cv2"].hint
    ended = tool("doctor", "--out", tmp_path / "file", "--json")
    assert ended.code == 1
    assert not ended.json["ok"]


# --- all


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_usage_ends_with_two(tool: Command, command: click.Command) -> None:
    ended = tool(str(command.name), "--no-such-option", "--json")
    assert ended.code == 2
    assert ended.json["code"] == 2


def test_help_imports_no_runtime() -> None:
    names = ", ".join(f"compiler.commands.{command.name}" for command in COMMANDS)
    program = (
        f"import sys, {names}\n"
        "heavy = {'onnx', 'onnxruntime', 'numpy', 'jinja2', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
