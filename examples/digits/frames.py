"""Write a directory of camera frames for an agent to replay, clean or corrupted.

``python -m examples.digits.frames --out DIR --count 1200 --seed 3 [--corrupt dark --severity 3]``

File names sort in a random order of the digits, so a replay shows independent scenes. The corrupted
directory of a seed shows the very frames of the clean one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from examples.digits.corruptions import KINDS, Kind, apply_corruption
from examples.digits.render import SPLITS, render_frames, sources_of


def write_frames(
    out: Path,
    *,
    count: int,
    seed: int,
    split: str = "test",
    corrupt: Kind | None = None,
    severity: int = 3,
) -> None:
    """Render ``count`` PNG frames of the sources of ``split`` into ``out``.

    Raises:
        FileExistsError: ``out`` holds frames already; two sets would mix.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob("*.png")):
        raise FileExistsError(f"{out} holds frames already; name another directory")
    rng = np.random.default_rng([seed, 1])
    pool = sources_of(split)
    rounds = -(-count // len(pool))
    sources = np.concatenate([rng.permutation(pool) for _ in range(rounds)])[:count]
    render_ids = np.repeat(np.arange(rounds), len(pool))[:count]
    frames = render_frames(sources, seed=1000 + seed, render_ids=render_ids)
    for number, frame in enumerate(frames):
        shown = apply_corruption(frame, corrupt, severity, rng) if corrupt else frame
        if not cv2.imwrite(str(out / f"{number:05d}.png"), shown):
            raise OSError(f"cannot write {out / f'{number:05d}.png'}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--corrupt", choices=KINDS)
    parser.add_argument("--severity", type=int, choices=range(1, 6), default=3)
    arguments = parser.parse_args()
    if arguments.count < 1 or arguments.seed < 0:
        parser.error("expected --count of at least 1 and --seed of at least 0")
    try:
        write_frames(
            arguments.out,
            count=arguments.count,
            seed=arguments.seed,
            split=arguments.split,
            corrupt=arguments.corrupt,
            severity=arguments.severity,
        )
    except OSError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
