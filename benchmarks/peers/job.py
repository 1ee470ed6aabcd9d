"""What every worker has in common: the job on stdin, the measurement, the answer on stdout.

A worker is run by the interpreter of its own environment. It reads one JSON job, imports what it
needs, and times nothing but the quantisation.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def read_job() -> dict[str, Any]:
    """The job: model, samples (.npz with x), input name, recipe, out (file to write)."""
    job: dict[str, Any] = json.load(sys.stdin)
    return job


def samples(job: dict[str, Any]) -> np.ndarray:
    """The calibration samples as model inputs, float32 ``[n, ...]``."""
    with np.load(job["samples"], allow_pickle=False) as archive:
        return np.asarray(archive["x"], np.float32)


def measure(work: Callable[[], None]) -> None:
    """Do ``work`` and print seconds (without imports) and the peak memory of the process."""
    before_mb = _peak_mb()
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    answer = {"seconds": seconds, "peak_mb": _peak_mb(), "peak_before_mb": before_mb}
    print("\n" + json.dumps(answer), flush=True)


def out_path(job: dict[str, Any]) -> Path:
    """The file to write."""
    return Path(job["out"])


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
