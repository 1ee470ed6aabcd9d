"""Write the calibration, selection and test splits that ``edge-compile`` takes.

``python -m examples.digits.make_data --out DIR`` writes ``calibration.npz``, ``selection.npz`` and
``test.npz`` with ``x`` uint8 ``[N, 32, 32, 1]`` and ``y`` int64 ``[N]``. No source digit stands in
two of them, each test row is another source digit, and two runs give the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from examples.digits.npz import write_npz
from examples.digits.render import load_digits, render_frames, sources_of

SEED = 11
RENDERS = {"calibration": 3, "selection": 1, "test": 1}


def write_splits(out: Path) -> None:
    """Render and write the three files."""
    out.mkdir(parents=True, exist_ok=True)
    for split, renders in RENDERS.items():
        sources = np.repeat(sources_of(split), renders)
        render_ids = np.tile(np.arange(renders), len(sources) // renders)
        frames = render_frames(sources, seed=SEED, render_ids=render_ids)
        write_npz(out / f"{split}.npz", {"x": frames, "y": load_digits().labels[sources]})


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True)
    write_splits(parser.parse_args().out)


if __name__ == "__main__":
    main()
