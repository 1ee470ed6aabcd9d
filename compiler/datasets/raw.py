"""What every reader of data gives, before it is checked."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler.datasets.frames import Array, Frames

NUMPY_ERRORS = (
    ValueError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy raises on damaged files: an array's header is Python text, which it parses."""


@dataclass(frozen=True)
class RawSamples:
    """Arrays as they were read.

    x: frames ``[n, ...]``, or ``None`` where there are none.
    y: labels as stored, or ``None``.
    found: what was there instead, for messages.
    classes: names by class id where the data set the order, else empty.
    """

    x: Frames | None
    y: Array | None
    found: str = ""
    classes: tuple[str, ...] = ()


def class_ids(words: Sequence[str], names: Sequence[str] | None) -> Array | str:
    """Class ids of labels written as numbers, or as names that ``--labels`` lists.

    Returns:
        int64 ``[n]``, or the first word that is neither.
    """
    known = {name: class_id for class_id, name in enumerate(names or ())}
    ids = np.empty(len(words), np.int64)
    for row, word in enumerate(words):
        if word in known:
            ids[row] = known[word]
        elif word.isascii() and word.isdecimal() and len(word) < 10:
            ids[row] = int(word)
        else:
            return word
    return ids
