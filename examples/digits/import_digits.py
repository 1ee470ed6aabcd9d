"""Makes ``digits.npz`` from scikit-learn's copy of the UCI digits. Needed once; its result is kept.

Requires: ``pip install scikit-learn numpy``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from examples.digits.npz import write_npz


def main() -> None:
    source = load_digits()
    write_npz(
        Path(__file__).with_name("digits.npz"),
        {"images": source.images.astype(np.uint8), "labels": source.target.astype(np.uint8)},
        compress=True,
    )


if __name__ == "__main__":
    main()
