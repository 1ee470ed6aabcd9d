"""Files of other tools: named for what they are, never executed, exported by the lines we give."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from compiler.errors import SourceError
from compiler.graph.describe import read_facts
from compiler.graph.floatgraph import normalise
from compiler.graph.labeloutput import drop_label_output
from compiler.graph.source import load_source
from tests.compiler.conftest import Command
from tests.compiler.models import matmul_model
from tests.programs import leave_out

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "export.md").read_text()


def archive(*names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in names:
            file.writestr(name, b"")
    return packed.getvalue()


@pytest.mark.parametrize(
    ("data", "what", "hint"),
    [
        (archive("m/data.pkl", "m/version"), "a PyTorch checkpoint", "torch.onnx.export"),
        (archive("m/data.pkl", "m/constants.pkl"), "a TorchScript archive", "eager model"),
        (archive("config.json", "model.weights.h5"), "a Keras file", "format='onnx'"),
        (archive("x.npy", "y.npy"), "data and not a model", "--calibration"),
        (archive("readme.txt"), "a zip archive", "ONNX"),
        (b"PK\x03\x04" + bytes(60), "damaged", "torch.onnx.export"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file", "TFLiteConverter"),
        (b"\x80\x04\x95" + b"sklearn.svm", "a pickled scikit-learn estimator", "skl2onnx"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch checkpoint", "torch.onnx"),
        (b"\x80\x04\x95" + b"__main__", "a pickle, which is a program", "ONNX"),
        (b"\x78\x5e" + bytes(20), "perhaps a joblib pickle", "ONNX"),
        (b"\x93NUMPY\x01\x00", "data and not a model", "--calibration"),
        (b'\x08\0\0\0\0\0\0\0{"a":{}}' + bytes(9), "safetensors", "torch.onnx.export"),
    ],
)
def test_files_of_other_tools_are_named_with_the_line_that_exports(
    tmp_path: Path, data: bytes, what: str, hint: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    for read in (load_source, read_facts):
        with pytest.raises(SourceError) as caught:
            read(path)
        assert what in caught.value.message
        assert hint in caught.value.hint
        assert (ROOT / "docs" / caught.value.docs).is_file()


def test_a_pickle_is_never_executed(edge_compile: Command, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    path = tmp_path / "model.pt"
    # Protocol 2: posix.mkdir(trap)
    path.write_bytes(
        b"\x80\x02cposix\nmkdir\n(X"
        + len(str(trap)).to_bytes(4, "little")
        + str(trap).encode()
        + b"tR."
    )
    ended = edge_compile(["inspect", str(path), "--json"])
    assert ended.code == 1
    assert "pickle" in ended.json["error"]
    assert not trap.exists()


def test_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a directory; expected an ONNX"):
        load_source(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(SourceError, match="a TensorFlow SavedModel") as caught:
        load_source(tmp_path)
    assert "from_saved_model" in caught.value.hint


def test_a_skops_file_without_the_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.skops"
    path.write_bytes(archive("schema.json"))
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(SourceError, match="reading it needs skops") as caught:
        load_source(path)
    assert "wherry[sklearn]" in caught.value.hint


def test_the_label_beside_the_scores_is_left_out() -> None:
    model = matmul_model()
    scores = model.graph.output[0].name
    before = [node.name for node in model.graph.node]
    classes = onnx.numpy_helper.from_array(np.arange(4), "classes")
    model.graph.initializer.append(classes)
    model.graph.node.extend(
        [
            helper.make_node("ArgMax", [scores], ["best"], axis=1, keepdims=0),
            helper.make_node("Gather", ["classes", "best"], ["label"]),
        ]
    )
    model.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]))
    assert drop_label_output(model)
    assert [value.name for value in model.graph.output] == [scores]
    assert [node.name for node in model.graph.node] == before
    assert "classes" not in {tensor.name for tensor in model.graph.initializer}
    assert not drop_label_output(model)


@pytest.mark.parametrize("op", ["TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier"])
def test_models_without_layers_say_why_int8_is_not_for_them(tmp_path: Path, op: str) -> None:
    node = helper.make_node(op, ["x"], ["label", "probabilities"], domain="ai.onnx.ml")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    with pytest.raises(SourceError, match=f"{op} of scikit-learn cannot be quantised") as caught:
        load_source(path)
    assert "MLPClassifier" in caught.value.hint


# --- the lines of docs/how-to/export.md


def lines_of(tool: str) -> list[str]:
    """The code blocks of the page that are marked as tested with ``tool``."""
    return re.findall(rf"<!-- tested: {tool} -->\n```python\n(.*?)```", PAGE, re.DOTALL)


REMEDIES = {
    "torch": "make test-export",
    "tensorflow": "make test-export-keras",
    "sklearn": "pip install 'wherry[sklearn]'",
}
"""How an environment comes by a tool that the lines are for."""


def interpreter_with(module: str) -> str:
    """A Python that has ``module``: this one, or that of ``WHERRY_<MODULE>_PYTHON``."""
    chosen = os.environ.get(f"WHERRY_{module.upper()}_PYTHON")
    if chosen:
        return chosen
    if importlib.util.find_spec(module) is None:
        leave_out(f"needs {module}: {REMEDIES[module]}")
    return sys.executable


def run_lines(python: str, folder: Path, *parts: str) -> None:
    done = subprocess.run(
        [python, "-W", "ignore", "-c", "\n".join(map(textwrap.dedent, parts))],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.torch
def test_the_lines_for_pytorch_give_a_model_that_loads(tmp_path: Path) -> None:
    (lines,) = lines_of("torch")
    network = """
        import torch
        from torch import nn
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)
        )
    """
    saved = "torch.save(model, 'model.pt')"
    run_lines(interpreter_with("torch"), tmp_path, network, lines, saved)
    source = load_source(tmp_path / "model.onnx")
    graph = normalise(source)
    assert (graph.input_name, graph.row_shape) == ("frames", (1, 12, 12))
    assert source.batch_is_free
    with pytest.raises(SourceError, match="a PyTorch checkpoint"):
        load_source(tmp_path / "model.pt")


@pytest.mark.tensorflow
def test_the_lines_for_keras_give_models_that_agree(tmp_path: Path) -> None:
    to_onnx, to_tflite = lines_of("tensorflow")
    network = """
        import keras
        import numpy as np
        from keras import layers
        model = keras.Sequential([
            keras.Input((12, 12, 1)), layers.Conv2D(8, 3, activation="relu"),
            layers.DepthwiseConv2D(3), layers.BatchNormalization(), layers.ReLU(),
            layers.Flatten(), layers.Dense(4, activation="softmax"),
        ])
        model.compile("sgd", "sparse_categorical_crossentropy")
        frames = np.random.default_rng(2).random((8, 12, 12, 1))
        model.fit(frames, np.arange(8) % 4, verbose=0)
    """
    run_lines(interpreter_with("tensorflow"), tmp_path, network, to_onnx, to_tflite)
    frames = np.random.default_rng(1).random((3, 12, 12, 1), np.float32)
    scores = []
    for name in ("model.onnx", "model.tflite"):
        graph = normalise(load_source(tmp_path / name))
        assert graph.row_shape == (12, 12, 1)
        session = ort.InferenceSession(graph.model.SerializeToString())
        scores.append(
            np.concatenate([session.run(None, {graph.input_name: x[None]})[0] for x in frames])
        )
    assert np.abs(scores[0] - scores[1]).max() < 1e-5


MLP = """
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier
    X, y = load_digits(return_X_y=True)
    X = X.astype("float32")
    model = MLPClassifier((32,), max_iter=60, random_state=0).fit(X[:1000], y[:1000])
    np.savez("calibration.npz", x=X[:500], y=y[:500])
    with open("test.csv", "w") as file:
        print(*(f"p{i}" for i in range(64)), "y", sep=",", file=file)
        for row, label in zip(X[1000:], y[1000:]):
            print(*row, label, sep=",", file=file)
"""


def test_the_lines_for_scikit_learn_give_models_that_pass_the_gate(
    edge_compile: Command, tmp_path: Path
) -> None:
    exported, dumped = lines_of("sklearn")
    run_lines(interpreter_with("skops"), tmp_path, MLP, exported, dumped)
    words = ["--name", "mlp", "--version", "1.0.0", "--target", "raspberry-pi-4", "--json"]
    words += ["--calibration", str(tmp_path / "calibration.npz"), "--effort", "fast"]
    words += ["--test", str(tmp_path / "test.csv"), "--max-drop-pp", "3"]
    reports = []
    for name in ("model.onnx", "model.skops"):
        out = str(tmp_path / f"out-{name}")
        ended = edge_compile(["build", str(tmp_path / name), *words, "--out", out])
        assert ended.code == 0, ended.stdout
        assert ended.json["int8_ops"]["seen"] == ended.json["int8_ops"]["expected"] == 2
        assert ended.json["float"]["accuracy"] > 0.8
        reports.append(ended.json)
    assert reports[0]["agreement"] == reports[1]["agreement"]


def test_a_skops_file_with_a_strange_type_is_refused(tmp_path: Path) -> None:
    strange = """
        import skops.io
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer
        from sklearn.linear_model import LogisticRegression
        class Odd:
            pass
        model = make_pipeline(FunctionTransformer(kw_args={"odd": Odd()}), LogisticRegression())
        skops.io.dump(model, "model.skops")
    """
    run_lines(interpreter_with("skops"), tmp_path, strange)
    if importlib.util.find_spec("skops") is None:
        leave_out("needs skops: pip install 'wherry[sklearn]'")
    with pytest.raises(SourceError, match=r"not known to be harmless: .*Odd"):
        load_source(tmp_path / "model.skops")
