"""A folder of images: class sub-folders with images, or images without labels.

Files are read as the agent reads them: through OpenCV, in the colour order of the preprocessing
contract. Order: by class, then by name. Images of one size stay as they are; where sizes differ,
or all of them together are large, each is resized here by the contract's own executor, which gives
the model the same input (resizing comes first in the contract and is exact).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from compiler.datasets.frames import Array, FrameStore, Spool
from compiler.datasets.raw import RawSamples
from compiler.errors import DatasetError
from compiler.progress import Progress, silent
from edge_contract.preprocess import PreprocessSpec
from edge_runtime.errors import InputRefusedError
from edge_runtime.preprocess import Preprocessor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})

RAW_LIMIT_BYTES = 1 << 30
"""Beyond this, images are kept at the model's size: they lie in a temporary file, and raw ones of
a camera would fill many a disk."""

FILE_LIMIT_BYTES = 100 << 20
_PROGRESS_EVERY = 1_000


def read_images(
    folder: Path,
    role: str,
    contract: PreprocessSpec,
    names: Sequence[str] | None,
    progress: Progress = silent,
) -> RawSamples:
    """The images of a folder as uint8 ``[n, ...]`` in the contract's layout.

    Sub-folders are classes: in the order of ``names`` where they are given, else by their numbers
    where all are numbers, else sorted.

    Raises:
        OSError: unreadable.
        DatasetError: no images, images beside sub-folders, a sub-folder that ``names`` lacks, an
            image that cannot be read or does not fit, or a contract that is not for images.
    """
    where = f"{role} folder {folder}"
    if contract.kind != "image":
        raise DatasetError(
            f"{where}: images need a preprocessing contract, which says their size, colour order"
            " and scale",
            hint="--preprocess preprocess.toml with kind = 'image'",
            docs="reference/edge-compile.md",
        )
    files, ids, classes = _listed(folder, where, names)
    if len(files) >= _PROGRESS_EVERY:
        progress(f"reading {len(files)} images of {folder.name}")
    frames = _Frames(contract)
    for index, file in enumerate(files):
        if index and index % _PROGRESS_EVERY == 0:
            progress(f"reading images of {folder.name}: {index} of {len(files)}")
        try:
            frames.add(_decode(file, contract))
        except InputRefusedError as error:
            raise DatasetError(
                f"{role} image {file}: {error.message}",
                hint="resize = 'linear' or 'area' in --preprocess takes images of any size"
                if contract.resize == "none"
                else "",
            ) from error
    y = np.array(ids, np.int64) if ids is not None else None
    return RawSamples(frames.store(), y, "no class sub-folders" if y is None else "", classes)


class _Frames:
    """Images as they come, resized from the moment that their sizes differ; on the disk."""

    def __init__(self, contract: PreprocessSpec) -> None:
        self._contract = contract
        self._executor = Preprocessor(contract, ())
        self._frames = Spool()
        self._raw = True
        self._size_bytes = 0

    def add(self, pixels: Array) -> None:
        differs = len(self._frames) > 0 and pixels.shape != self._frames.row_shape
        self._size_bytes += pixels.nbytes
        large = self._size_bytes > RAW_LIMIT_BYTES and self._contract.resize != "none"
        if self._raw and (differs or large):
            self._raw = False
            sized = Spool()
            for frame in self._frames.store():
                sized.add(self._sized(frame))
            self._frames = sized
        self._frames.add(pixels if self._raw else self._sized(pixels))

    def store(self) -> FrameStore:
        return self._frames.store()

    def _sized(self, frame: Array) -> Array:
        sized = self._executor.sized(frame)
        return sized.transpose(2, 0, 1) if self._contract.layout == "NCHW" else sized


def _listed(
    folder: Path, where: str, names: Sequence[str] | None
) -> tuple[list[Path], list[int] | None, tuple[str, ...]]:
    entries = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
    folders = [one for one in entries if one.is_dir()]
    flat = [one for one in entries if one.suffix.lower() in SUFFIXES and one.is_file()]
    if folders and flat:
        raise DatasetError(
            f"{where} holds images ({flat[0].name}) beside sub-folders ({folders[0].name});"
            " expected one sub-folder a class, or images alone"
        )
    if not folders and not flat:
        raise DatasetError(
            f"{where} holds no images ({', '.join(sorted(SUFFIXES))}) and no class sub-folders"
        )
    if flat:
        return flat, None, ()
    order, classes = _order(folders, where, names)
    files: list[Path] = []
    ids: list[int] = []
    for class_id, one in order:
        inside = list(_images_in(one))
        if not inside:
            raise DatasetError(f"{where}: the class folder {one.name!r} holds no images")
        files += inside
        ids += [class_id] * len(inside)
    return files, ids, classes


def _order(
    folders: list[Path], where: str, names: Sequence[str] | None
) -> tuple[list[tuple[int, Path]], tuple[str, ...]]:
    if names is not None:
        known = {name: class_id for class_id, name in enumerate(names)}
        strange = [one.name for one in folders if one.name not in known]
        if strange:
            raise DatasetError(
                f"{where}: the sub-folder {strange[0]!r} is no class of --labels"
                f" ({', '.join(list(known)[:8])}{', ...' if len(known) > 8 else ''})"
            )
        return sorted((known[one.name], one) for one in folders), ()
    if all(one.name.isascii() and one.name.isdecimal() and len(one.name) < 10 for one in folders):
        return sorted((int(one.name), one) for one in folders), ()
    return list(enumerate(folders)), tuple(one.name for one in folders)


def _images_in(folder: Path) -> Iterator[Path]:
    for one in sorted(folder.iterdir()):
        if one.suffix.lower() in SUFFIXES and not one.name.startswith(".") and one.is_file():
            yield one


def _decode(file: Path, contract: PreprocessSpec) -> Array:
    size = file.stat().st_size
    if size > FILE_LIMIT_BYTES:
        raise InputRefusedError(f"{size} bytes; an image of at most {FILE_LIMIT_BYTES} is read")
    data = np.frombuffer(file.read_bytes(), np.uint8)
    try:
        # imread would print to stderr and return None for every kind of trouble alike.
        pixels = cv2.imdecode(data, cv2.IMREAD_ANYCOLOR) if data.size else None
    except (cv2.error, MemoryError) as error:
        raise InputRefusedError(str(error).strip().splitlines()[0][:200]) from error
    if pixels is None:
        raise InputRefusedError("not a readable image: damaged, or another kind of file")
    found = _in_colour(np.asarray(pixels), contract.colour)
    if found.ndim == 2:
        found = found[:, :, None]
    return found.transpose(2, 0, 1) if contract.layout == "NCHW" else found


def _in_colour(pixels: Array, wanted: str) -> Array:
    """OpenCV's grey ``[h, w]`` or BGR ``[h, w, 3]`` in the order that the contract asks for."""
    if pixels.ndim == 2:
        return pixels if wanted == "GRAY" else np.repeat(pixels[:, :, None], 3, axis=2)
    if wanted == "BGR":
        return pixels
    if wanted == "RGB":
        return pixels[:, :, ::-1]
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_BGR2GRAY))
