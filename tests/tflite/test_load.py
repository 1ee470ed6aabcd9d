"""The door: what happens where ai-edge-litert is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from compiler.tflite.load import load_tflite
from tests.tflite.networks import NETWORKS

WITHOUT = """
import sys
sys.modules["ai_edge_litert"] = None  # what an import of a missing package meets
from compiler.errors import SourceError
from compiler.tflite.load import load_tflite
try:
    load_tflite("m.tflite", b"....TFL3")
except SourceError as error:
    print(error.message, "|", error.hint)
"""


def test_file_is_converted() -> None:
    assert load_tflite("m.tflite", NETWORKS["ds_cnn"]()).graph.node


def test_missing_extra_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == (
        "m.tflite is a TensorFlow Lite file; reading it needs ai_edge_litert"
        " | pip install 'wherry[compile]'"
    )


@pytest.mark.parametrize("module", ["ai_edge_litert", "compiler.tflite.read"])
def test_schema_is_not_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, compiler.tflite.load; print({module!r} in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
