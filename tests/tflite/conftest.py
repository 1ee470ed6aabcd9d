"""What several tests of .tflite files share."""

from __future__ import annotations

import os
import subprocess
import sys
import venv

import pytest

from tests.tflite.old_runtime import OldRuntime


@pytest.fixture(scope="session")
def old_runtime(tmp_path_factory: pytest.TempPathFactory) -> OldRuntime:
    """The Python that ``WHERRY_TFLITE_RUNTIME_PYTHON`` names, or one made here."""
    named = os.environ.get("WHERRY_TFLITE_RUNTIME_PYTHON")
    if named:
        return OldRuntime(named)
    if sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime 2.14 has no wheel from Python 3.12 on")
    env = tmp_path_factory.mktemp("tflite-runtime")
    venv.create(env, with_pip=True)
    python = str(env / "bin" / "python")
    words = ["-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([python, *words, "tflite-runtime==2.14.0", "numpy<2"], check=True)
    return OldRuntime(python)
