"""CSV: a line of column names, then one sample a line.

Every column is a number of the sample, but one called ``y`` or ``label``: a class id, or a name
that ``--labels`` lists. Samples become float32 ``[n, columns]`` in the order of the columns, in a
temporary file, so that memory does not grow with their number.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from compiler.datasets.frames import Spool
from compiler.datasets.raw import RawSamples, class_ids
from compiler.errors import DatasetError

LABEL_COLUMNS = ("y", "label")
COLUMNS_MAX = 100_000
FILE_LIMIT_BYTES = 1 << 30
"""Text of numbers takes many times their room; larger data belong into ``.npy``."""

_HINT = "a line of column names, then numbers; the labels in a column called y or label"


def read_csv(path: Path, role: str, names: Sequence[str] | None) -> RawSamples:
    """Samples and labels of a CSV file, separated by commas or semicolons.

    Args:
        path: the file, UTF-8.
        role: for messages.
        names: class names by class id, where ``--labels`` gives them.

    Raises:
        OSError: unreadable.
        DatasetError: no column names, a cell that is no number, lines of unequal length, or a
            label that is neither a class id nor a known name; says the line.
    """
    where = f"{role} file {path}"
    size = path.stat().st_size
    if size > FILE_LIMIT_BYTES:
        raise DatasetError(
            f"{where}: {size} bytes; a CSV file of at most {FILE_LIMIT_BYTES} is read",
            hint="np.save('file.npy', samples)",
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(1 << 22)
            file.seek(0)
            separator = ";" if ";" in first and "," not in first else ","
            return _read(where, csv.reader(file, delimiter=separator), names)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{where} is not UTF-8 text: {error.reason}", hint=_HINT) from error
    except csv.Error as error:
        raise DatasetError(f"{where} is not a CSV file: {error}", hint=_HINT) from error


def _read(where: str, lines: Iterator[list[str]], names: Sequence[str] | None) -> RawSamples:
    header = [name.strip() for name in next(lines, [])]
    labels = [place for place, name in enumerate(header) if name.lower() in LABEL_COLUMNS]
    if not header or len(header) > COLUMNS_MAX or all(map(_is_number, header)):
        raise DatasetError(
            f"{where}: the first line must name 1 to {COLUMNS_MAX} columns, got"
            f" {', '.join(header[:6])[:80]!r}",
            hint=_HINT,
        )
    if len(labels) > 1:
        raise DatasetError(f"{where}: two label columns, {[header[place] for place in labels]}")
    label = labels[0] if labels else None
    values = Spool()
    words: list[str] = []
    for number, cells in enumerate(lines, 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise DatasetError(
                f"{where}, line {number}: {len(cells)} cells; the first line names {len(header)}"
                " columns"
            )
        if label is not None:
            words.append(cells.pop(label).strip())
        try:
            # A value beyond float32 becomes infinite, which is refused by row like any other.
            with np.errstate(over="ignore"):
                values.add(np.array([float(cell) for cell in cells], np.float32))
        except ValueError as error:
            raise DatasetError(
                f"{where}, line {number}: {_first_bad(header, label, cells)}", hint=_HINT
            ) from error
    found = f"the columns {header[:12]}"
    if not len(values):
        return RawSamples(None, None, f"{found} and no line of numbers")
    ids = class_ids(words, names) if label is not None else None
    if isinstance(ids, str):
        raise DatasetError(
            f"{where}: the label {ids[:60]!r} in column {header[label or 0]!r} is neither a class"
            " id nor a name that --labels lists",
            hint="--labels names.txt, one name a line, in the order of the model's outputs",
        )
    return RawSamples(values.store(), ids, found)


def _first_bad(header: list[str], label: int | None, cells: list[str]) -> str:
    columns = [name for place, name in enumerate(header) if place != label]
    column, cell = next(
        (column, cell) for column, cell in zip(columns, cells, strict=True) if not _is_number(cell)
    )
    return f"column {column[:60]!r} holds {cell[:60]!r}; expected a number"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
