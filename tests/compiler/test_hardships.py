"""What goes wrong around a build: no room, an interrupt, files that are no files or too large."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from compiler.calibrate import calibration
from compiler.datasets.checks import check_labels
from compiler.datasets.csv import FILE_LIMIT_BYTES
from compiler.datasets.load import load_dataset, load_frames
from compiler.errors import DatasetError, SourceError
from compiler.graph.source import MODEL_LIMIT_BYTES, load_source
from tests.compiler.conftest import Command, Small
from tests.compiler.models import frames, small_cnn, write_npz
from tests.programs import leave_out

ROOT = Path(__file__).parents[2]


def start(
    arguments: list[str], cache: Path, file_limit_bytes: int | None = None
) -> subprocess.Popen[str]:
    """``edge-compile`` in a process of its own, with a cache of its own."""

    def prepare() -> None:
        # A shell starts background jobs, CI among them, with SIGINT ignored; a terminal does not.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if file_limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit_bytes, file_limit_bytes))

    return subprocess.Popen(
        [sys.executable, "-m", "compiler.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        preexec_fn=prepare,
    )


# --- an interrupt


def test_an_interrupted_build_leaves_no_bundle_and_the_next_goes_on_from_the_cache(
    small: Small, edge_compile: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Many test samples, so that there is time to interrupt once calibration is done.
    x, y = frames(30_000, 41)
    test = write_npz(tmp_path / "test.npz", x=x, y=y)
    out, cache = tmp_path / "out", tmp_path / "cache"
    arguments = small.arguments(out, "--json", test=test, effort="fast")
    process = start(arguments, cache)
    deadline = time.monotonic() + 120
    while not list(cache.glob("wherry/calibration/*.npz")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not out.exists()

    calibrated: list[object] = []
    collect = calibration.collect_stats

    def counted(*given: object, **named: object) -> object:
        calibrated.append(given)
        return collect(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(calibration, "collect_stats", counted)
    arguments = small.arguments(out, "--json", effort="fast")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    whole = edge_compile(arguments)
    from_nothing = len(calibrated)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    again = edge_compile(arguments)
    assert whole.code == again.code == 0
    assert len(calibrated) - from_nothing < from_nothing
    assert again.json["bundle_digest"] == whole.json["bundle_digest"]


# --- no room


@pytest.mark.parametrize("limit_bytes", [1000, 3000, 8000])
def test_a_build_that_cannot_write_says_so_and_leaves_nothing(
    small: Small, tmp_path: Path, limit_bytes: int
) -> None:
    out = tmp_path / "out"
    process = start(small.arguments(out), tmp_path / "cache", limit_bytes)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stdout == ""
    assert "edge-compile: cannot write" in stderr
    assert "File too large" in stderr
    assert "Traceback" not in stderr
    assert not out.exists()


def test_a_full_file_system_keeps_the_earlier_result(small: Small, tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=600k none '{tmp_path}'"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        leave_out("mounting a small tmpfs is not allowed here; the tests with RLIMIT_FSIZE ran")
    words = [sys.executable, "-m", "compiler.cli", *small.arguments(tmp_path / "out")]
    build = subprocess.list2cmdline(words)
    script = f"""
        {mount} && {build} && sha256sum '{tmp_path}'/out/report.json > '{tmp_path}/sum' || exit 40
        dd if=/dev/zero of='{tmp_path}/full' bs=1k 2>/dev/null
        {build.replace("1.0.0", "1.0.1")} ; code=$?
        sha256sum --check --quiet '{tmp_path}/sum' || exit 41
        test -e '{tmp_path}/out/bundle/oci-layout' || exit 42
        ls -A '{tmp_path}/out' | grep '^[.]' && exit 43
        exit $code
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No space left on device" in done.stderr


# --- files that are too large, or no files


def sparse(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def test_oversized_files_are_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"at most {MODEL_LIMIT_BYTES} is accepted"):
        load_source(sparse(tmp_path / "m.onnx", MODEL_LIMIT_BYTES + 1))
    with pytest.raises(SourceError, match=f"at most {MODEL_LIMIT_BYTES} is accepted"):
        load_source(sparse(tmp_path / "m.tflite", MODEL_LIMIT_BYTES + 1))
    with pytest.raises(DatasetError, match=f"at most {FILE_LIMIT_BYTES} is read"):
        load_frames(sparse(tmp_path / "x.csv", FILE_LIMIT_BYTES + 1))


def test_oversized_external_weights_are_refused_unread(tmp_path: Path) -> None:
    model = small_cnn()
    tensor = next(one for one in model.graph.initializer if one.dims)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    sparse(tmp_path / "weights.bin", MODEL_LIMIT_BYTES + 1)
    with pytest.raises(SourceError, match="bytes of weights in other files"):
        load_source(tmp_path / "m.onnx")
    sparse(tmp_path / "weights.bin", 3)
    with pytest.raises(SourceError):
        load_source(tmp_path / "m.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(SourceError, match=r"keeps weights in weights\.bin") as caught:
        load_source(tmp_path / "m.onnx")
    assert "together in one directory" in caught.value.hint


@pytest.mark.parametrize("bomb", ["pads", "shape"])
def test_a_small_file_that_unfolds_to_a_huge_tensor_is_refused(tmp_path: Path, bomb: str) -> None:
    model = small_cnn(batch=1)
    if bomb == "pads":
        node = next(one for one in model.graph.node if one.op_type == "Conv")
        kept = [one for one in node.attribute if one.name not in ("pads", "auto_pad")]
        pads = onnx.helper.make_attribute("pads", [10**6, 10**6, 0, 0])
        del node.attribute[:]
        node.attribute.extend([*kept, pads])
    else:
        shape = onnx.numpy_helper.from_array(np.array([10**5, 10**6]), "bomb_shape")
        model.graph.initializer.append(shape)
        zeros = onnx.helper.make_node("ConstantOfShape", ["bomb_shape"], ["zeros"])
        total = onnx.helper.make_node("ReduceSum", ["zeros"], ["none"], keepdims=0)
        model.graph.node.extend([zeros, total])
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(SourceError, match="bytes for one frame"):
        load_source(tmp_path / "m.onnx")


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="no regular file"):
        load_source(tmp_path / "pipe")
    with pytest.raises(SourceError, match="no regular file"):
        load_source(Path("/dev/zero"))
    with pytest.raises(DatasetError, match="neither a regular file nor a folder"):
        load_frames(tmp_path / "pipe")


# --- labels that do not fit


@pytest.mark.parametrize(
    ("y", "hint"),
    [
        (np.eye(5, dtype=np.float32), "y.argmax(axis=1)"),
        (np.zeros((5, 1), np.int64), "y[:, 0]"),
        (np.zeros(5, np.float64), "y.astype('int64')"),
    ],
)
def test_labels_of_another_form_are_refused_with_the_way_to_class_ids(
    tmp_path: Path, y: np.ndarray, hint: str
) -> None:
    path = write_npz(tmp_path / "t.npz", x=np.zeros((5, 4), np.float32), y=y)
    data = load_dataset(path, "test", labels_required=True)
    with pytest.raises(DatasetError, match="expected whole class ids") as caught:
        check_labels(data, 5)
    assert hint in caught.value.hint


def test_custom_operators_are_counted(tmp_path: Path) -> None:
    model = small_cnn()
    for node in model.graph.node[:2]:
        node.domain, node.op_type = "my.ops", "Fold"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(SourceError, match=r"no device here can run: 2x my\.ops\.Fold"):
        load_source(tmp_path / "m.onnx")
