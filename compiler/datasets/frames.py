"""Samples that stay on the disk: rows are read when they are asked for, so memory does not grow.

``FrameStore`` is indexed like an array ``[n, ...]`` but holds none of it. An uncompressed array of
an ``.npz`` file is read where it lies; a compressed one is unpacked once into a temporary file that
has no name and goes with the process. Nothing is mapped into memory: mapped pages would count as
the process's own.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from compiler.errors import OutputError

Array = npt.NDArray[Any]
Index = npt.NDArray[np.integer]

BLOCK_BYTES = 1 << 20
"""What a block of rows takes in memory, or one row where that is more."""

_COPY_BYTES = 1 << 20


class Column:
    """One array ``[n, ...]`` in a file, read row by row. Safe from any thread.

    Args:
        file: open for reading; kept open as long as this lives.
        offset: where its first value lies.
        dtype, shape: of the array, in C order.
    """

    @classmethod
    def of(cls, array: Array) -> Column:
        """An array of which few exist in memory, put into a temporary file like the others.

        Raises:
            OutputError: no room.
        """
        plain = np.ascontiguousarray(array)
        spool = _temporary()
        with _room():
            spool.write(plain.tobytes())
            spool.flush()
        return cls(spool, 0, plain.dtype, plain.shape)

    def __init__(
        self, file: IO[bytes], offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        self._file = file
        self._offset = offset
        self._stored = dtype
        self.dtype = dtype.newbyteorder("=")
        self.shape = shape
        self._row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))

    def slice(self, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop``.

        Raises:
            ValueError: the file was cut short meanwhile.
        """
        wanted = (stop - start) * self._row_bytes
        data = bytearray(wanted)
        view, done = memoryview(data), 0
        while done < wanted:
            place = self._offset + start * self._row_bytes + done
            read = os.preadv(self._file.fileno(), [view[done:]], place)
            if read == 0:
                raise ValueError("the file was cut short while it was read")
            done += read
        found = np.frombuffer(data, self._stored).reshape(stop - start, *self.shape[1:])
        return found.astype(self.dtype, copy=False)

    def take(self, index: Index) -> Array:
        """The rows at ``index``."""
        found = np.empty((len(index), *self.shape[1:]), self.dtype)
        for place, row in enumerate(index.tolist()):
            found[place] = self.slice(row, row + 1)[0]
        return found


class Spool:
    """Rows of one shape and dtype, put one by one into a temporary file that has no name.

    Raises:
        OutputError: no room for one.
    """

    def __init__(self) -> None:
        self._file = _temporary()
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)
        self._shape: tuple[int, ...] = ()
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of the rows so far."""
        return self._shape

    def add(self, row: Array) -> None:
        """Append one row.

        Raises:
            OutputError: no room.
            ValueError: another shape or dtype than the rows before it.
        """
        if not self._rows:
            self._dtype, self._shape = row.dtype, row.shape
        elif (row.dtype, row.shape) != (self._dtype, self._shape):
            raise ValueError(
                f"row {self._rows} is {row.dtype} {list(row.shape)}; expected {self._dtype}"
                f" {list(self._shape)}"
            )
        with _room():
            self._file.write(np.ascontiguousarray(row).tobytes())
        self._rows += 1

    def store(self) -> FrameStore:
        """The rows so far as frames.

        Raises:
            OutputError: no room.
        """
        with _room():
            self._file.flush()
        return FrameStore({"x": Column(self._file, 0, self._dtype, (self._rows, *self._shape))})


class FrameStore:
    """Frames of one or several arrays in files.

    With one array a frame is a row of it; with several, a frame is one float32 vector, the arrays'
    rows one after another (see ``edge_runtime.tensors``).

    Args:
        columns: arrays by name, in the order of the model's inputs.
        index: which rows, in which order; all of them where it is not given.
    """

    def __init__(self, columns: Mapping[str, Column], index: Index | None = None) -> None:
        self.columns = dict(columns)
        first = next(iter(self.columns.values()))
        self._index = index
        self._length = first.shape[0] if index is None else len(index)
        if len(self.columns) == 1:
            self.dtype, frame = first.dtype, first.shape[1:]
        else:
            sizes = [int(np.prod(c.shape[1:], dtype=np.int64)) for c in self.columns.values()]
            self.dtype, frame = np.dtype(np.float32), (sum(sizes),)
        self.shape: tuple[int, ...] = (self._length, *frame)

    @property
    def ndim(self) -> int:
        """Axes, the first one included."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Values in all frames."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: int | slice | Index) -> Array:
        """One frame, or an array of the frames at a slice or an index array."""
        if isinstance(key, slice):
            start, stop, step = key.indices(self._length)
            if step != 1:
                return self[np.arange(start, stop, step)]
            return self._join([self.column(n, start, max(start, stop)) for n in self.columns])
        if isinstance(key, np.ndarray):
            rows = key if self._index is None else self._index[key]
            return self._join([column.take(rows) for column in self.columns.values()])
        row = int(key)
        if not 0 <= row < self._length:  # also ends a ``for`` over it
            raise IndexError(f"row {row} of {self._length}")
        frame: Array = self[row : row + 1][0]
        return frame

    def __iter__(self) -> Iterator[Array]:
        for block in blocks(self):
            yield from block

    def rows(self, index: Index) -> FrameStore:
        """The frames at ``index`` as a store of its own; nothing is read."""
        return FrameStore(self.columns, index if self._index is None else self._index[index])

    def only(self, name: str) -> FrameStore:
        """The same rows of one array."""
        return FrameStore({name: self.columns[name]}, self._index)

    def column(self, name: str, start: int, stop: int) -> Array:
        """Rows of one array, as the file holds them."""
        column = self.columns[name]
        if self._index is None:
            return column.slice(start, stop)
        return column.take(self._index[start:stop])

    def _join(self, parts: Sequence[Array]) -> Array:
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([p.reshape(len(p), -1).astype(np.float32) for p in parts], axis=1)


Frames = npt.NDArray[np.generic] | FrameStore
"""Raw frames ``[n, ...]``, in memory or on the disk."""


def blocks(x: Frames) -> Iterator[Array]:
    """``x`` in blocks of rows, one after another."""
    row_bytes = max(1, x.dtype.itemsize * int(np.prod(x.shape[1:], dtype=np.int64)))
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, len(x), step):
        yield x[start : start + step]


def open_npz(path: Path, wanted: Sequence[str] | None = None) -> dict[str, Column | Array]:
    """The arrays ``wanted`` (or all) of an ``.npz`` file, as far as they are in it.

    Checksums are checked, nothing is unpickled, and no array is held in memory but one in Fortran
    order, whose rows are not in one place.

    Raises:
        OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError: not such a file, or damaged.
        OutputError: no room for what was compressed.
    """
    found: dict[str, Column | Array] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename or (wanted is not None and name not in wanted):
                continue
            found[name] = _open_member(path, archive, info)
    return found


def open_npy(path: Path) -> Column | Array:
    """The array of an ``.npy`` file, left where it lies.

    Raises:
        OSError, ValueError: not such a file, or cut short.
    """
    file: IO[bytes] = path.open("rb")
    shape, fortran, dtype = _read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds objects, which would have to be unpickled")
    head = file.tell()
    size = dtype.itemsize * int(np.prod(shape, dtype=object))
    if path.stat().st_size < head + size:
        raise ValueError(f"it holds {path.stat().st_size - head} bytes of {size}")
    if not shape or size == 0 or (fortran and len(shape) > 1):
        return np.frombuffer(file.read(size), dtype).reshape(shape, order="F" if fortran else "C")
    return Column(file, head, dtype, shape)


def _open_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Column | Array:
    with archive.open(info) as member:
        shape, fortran, dtype = _read_header(member)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds objects, which would have to be unpickled")
        head = member.tell()
        size = dtype.itemsize * int(np.prod(shape, dtype=object))
        if info.file_size != head + size:
            raise ValueError(f"{info.filename} holds {info.file_size - head} bytes of {size}")
        if not shape or size == 0 or (fortran and len(shape) > 1):
            values = np.frombuffer(member.read(), dtype)
            return values.reshape(shape, order="F" if fortran else "C")
        if info.compress_type == zipfile.ZIP_STORED:
            while member.read(_COPY_BYTES):  # to the end, where its checksum is compared
                pass
            file: IO[bytes] = path.open("rb")
            return Column(file, _data_offset(file, info) + head, dtype, shape)
        spool = _temporary()
        while part := member.read(_COPY_BYTES):
            with _room():
                spool.write(part)
        with _room():
            spool.flush()
        return Column(spool, 0, dtype, shape)


def _temporary() -> IO[bytes]:
    with _room():
        return tempfile.TemporaryFile(prefix="edge-compile-")


@contextmanager
def _room() -> Iterator[None]:
    """Whoever reads samples would take a full disk for a file that is damaged, or not there."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot put samples into a temporary file: {error.strerror}",
            hint="free some space, or set TMPDIR to a folder that has it",
        ) from error


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(member)
    raise ValueError(f"an array of format {version}; expected 1.0 or 2.0")


def _data_offset(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose extra field may be longer than
    that in the directory (PKWARE APPNOTE 4.3.7)."""
    header = os.pread(file.fileno(), 30, info.header_offset)
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    return int(info.header_offset) + 30 + int(name_bytes) + int(extra_bytes)
