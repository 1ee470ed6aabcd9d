"""tflite-runtime 2.14 in a Python of its own: it wants a numpy below 2."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_RUN = """
import json, sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
(source,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
rows = []
for frame in np.load(sys.argv[2]):
    interpreter.set_tensor(source["index"], frame)
    interpreter.invoke()
    rows.append(interpreter.get_tensor(scores["index"]).reshape(-1))
np.save(sys.argv[3], np.array(rows))
print(json.dumps(interpreter.get_signature_list()))
"""


@dataclass(frozen=True)
class OldRuntime:
    """``python``: one that has tflite-runtime 2.14."""

    python: str

    def answer(self, model: bytes, frames: Array, scratch: Path) -> tuple[Array, dict[str, Any]]:
        """Frames ``[n, 1, ...]`` -> rows ``[n, ...]``, and the file's signatures."""
        (scratch / "model.tflite").write_bytes(model)
        np.save(scratch / "frames.npy", frames)
        paths = [str(scratch / file) for file in ("model.tflite", "frames.npy", "rows.npy")]
        done = subprocess.run(
            [self.python, "-c", _RUN, *paths],
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        return np.load(scratch / "rows.npy"), json.loads(done.stdout)
