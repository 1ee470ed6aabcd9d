"""Does a build's peak memory grow with the number of calibration samples?

    python benchmarks/calibration_memory.py --data DIR [--samples 1000,5000,20000] [--json]

``DIR`` holds ``kws/`` with ``kws_float.onnx``, ``calibration.npz`` (x) and ``test.npz`` (x, y). The
calibration samples are seeded jitter of those there, in compressed ``.npz`` files. Each build runs
in a process of its own with an empty cache; its peak is what the kernel counted (ru_maxrss). Exits
with 1 when a peak is more than 10 % over the least.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
RATIO_MAX = 1.1
_BLOCK_ROWS = 500


@dataclass(frozen=True)
class Peak:
    """One build. ratio: of its peak to the least one."""

    samples: int
    peak_mb: float
    ratio: float
    seconds: float
    ms_per_sample: float


def jittered(source: Path, target: Path, samples: int, seed: int = 0) -> None:
    """Write ``samples`` rows: rows of ``source`` with noise of 2 % of their spread."""
    with np.load(source, allow_pickle=False) as archive:
        x = archive["x"]
    random = np.random.default_rng(seed)
    spread = 0.02 * float(x.std())
    blocks = []
    for start in range(0, samples, _BLOCK_ROWS):
        rows = x[random.integers(0, len(x), min(_BLOCK_ROWS, samples - start))]
        noisy = rows.astype(np.float32) + random.normal(0, spread, rows.shape).astype(np.float32)
        if x.dtype == np.uint8:
            noisy = np.clip(np.rint(noisy), 0, 255)
        blocks.append(noisy.astype(x.dtype))
    np.savez_compressed(target, x=np.concatenate(blocks))


def peak_of_build(folder: Path, model: Path, calibration: Path, test: Path) -> tuple[float, float]:
    """(peak MB, seconds) of one build; the verdict does not matter here, an error does."""
    command = [sys.executable, "-m", "compiler.cli", "build", str(model)]
    command += ["--name", "memory", "--version", "1.0.0", "--target", "raspberry-pi-4"]
    command += ["--calibration", str(calibration), "--test", str(test), "--effort", "fast"]
    command += ["--out", str(folder / "out")]
    begin = time.monotonic()
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parent),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    with subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        assert child.stderr is not None
        said = child.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 5):
        raise SystemExit(f"the build with {calibration.name} failed: {said[-1000:]}")
    return usage.ru_maxrss / 1024, time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", default="1000,5000,20000")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kws = options.data.resolve() / "kws"
    found: list[tuple[int, float, float]] = []
    for samples in (int(word) for word in options.samples.split(",")):
        with tempfile.TemporaryDirectory(prefix="wherry-memory-") as scratch:
            folder = Path(scratch)
            calibration = folder / f"calibration-{samples}.npz"
            jittered(kws / "calibration.npz", calibration, samples)
            peak_mb, seconds = peak_of_build(
                folder, kws / "kws_float.onnx", calibration, kws / "test.npz"
            )
            found.append((samples, peak_mb, seconds))
            print(f"{samples} samples: {peak_mb:.1f} MB, {seconds:.1f} s", file=sys.stderr)
    least = min(peak for _, peak, _ in found)
    peaks = [
        Peak(
            samples,
            round(peak, 1),
            round(peak / least, 4),
            round(s, 1),
            round(1e3 * s / samples, 3),
        )
        for samples, peak, s in found
    ]
    passed = all(peak.ratio < RATIO_MAX for peak in peaks)
    if options.json:
        print(json.dumps({"passed": passed, "peaks": [asdict(peak) for peak in peaks]}, indent=2))
    else:
        print("samples   peak MB   of the least   seconds   ms a sample")
        for peak in peaks:
            print(
                f"{peak.samples:7d} {peak.peak_mb:9.1f} {peak.ratio:14.3f} {peak.seconds:9.1f}"
                f" {peak.ms_per_sample:13.3f}"
            )
        print(f"{'PASS' if passed else 'FAIL'}: limit {RATIO_MAX}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
