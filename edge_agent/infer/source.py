"""Where frames come from: a directory, a video file or a camera.

A source yields raw frames as they come, grey or in OpenCV's BGR; ``in_colour`` brings one into the
order that a model's contract asks for, when it is answered: a model that is swapped in between may
ask for another. What cannot be read is reported and skipped, never fatal.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from edge_agent.config import SourceSection
from edge_agent.errors import AgentError

RawFrame = npt.NDArray[np.generic]
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


class Frame(msgspec.Struct, frozen=True):
    """One raw frame and its name; ``pixels`` is None where it could not be read (``error``).

    colour: ``GRAY`` or ``BGR`` for pictures, ``AS_IS`` for arrays, which nobody converts.
    """

    name: str
    pixels: RawFrame | None
    error: str = ""
    colour: Literal["GRAY", "BGR", "AS_IS"] = "AS_IS"


class Source(Protocol):
    """Yields frames until it is exhausted.

    live: it does not wait: what is not answered in time is lost. Files wait.
    """

    live: bool

    def frames(self) -> Iterator[Frame]: ...


def open_source(section: SourceSection) -> Source:
    """The source that the configuration names.

    Raises:
        AgentError: OpenCV is missing for a video or camera.
    """
    if section.kind == "directory":
        return DirectorySource(Path(section.path), loop=section.loop)
    return VideoSource(section.path, camera=section.kind == "camera", loop=section.loop)


class DirectorySource:
    """Files of a directory in sorted order; each is opened when it is due, so that a directory
    (or a link to one) may be replaced while the agent runs."""

    live = False

    def __init__(self, path: Path, *, loop: bool) -> None:
        self.path = path
        self.loop = loop

    def frames(self) -> Iterator[Frame]:
        """Every readable file, again and again where ``loop`` is set."""
        while True:
            names = self._names()
            if not names:
                yield Frame(
                    str(self.path), None, f"no image or .npy file in {self.path}, or not readable"
                )
            for name in names:
                yield read_file(self.path / name)
            if not self.loop:
                return

    def _names(self) -> list[str]:
        suffixes = IMAGE_SUFFIXES | {".npy"}
        try:
            return sorted(p.name for p in self.path.iterdir() if p.suffix.lower() in suffixes)
        except OSError:
            return []


class VideoSource:
    """A video file or a camera, through OpenCV."""

    def __init__(self, path: str, *, camera: bool, loop: bool) -> None:
        self.path = path
        self.live = camera
        self.loop = loop
        self._cv2 = _opencv(f"source {path}")

    def frames(self) -> Iterator[Frame]:
        """Frames as they come; a camera that fails is opened again at the next frame."""
        device: int | str = int(self.path) if self.path.isdecimal() else self.path
        while True:
            capture = self._cv2.VideoCapture(device)
            index = 0
            try:
                while True:
                    ok, pixels = capture.read()
                    if not ok:
                        break
                    yield picture(f"{self.path}#{index}", pixels)
                    index += 1
            finally:
                capture.release()
            if index == 0 or self.live:
                yield Frame(self.path, None, f"{self.path}: no frame could be read")
            elif not self.loop:
                return


def read_file(path: Path) -> Frame:
    """One ``.npy`` array or image file as a raw frame.

    Raises:
        AgentError: OpenCV is missing for an image: no other image can be read either.
    """
    try:
        if path.suffix.lower() == ".npy":
            pixels = np.load(path, allow_pickle=False)
            if not isinstance(pixels, np.ndarray):  # a renamed .npz
                return Frame(path.name, None, f"{path.name}: expected one array, got an archive")
            return Frame(path.name, pixels)
        cv2 = _opencv(str(path))
        # imread would print to stderr and return None for every kind of trouble alike.
        data = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_ANYCOLOR) if data.size else None
    except AgentError:
        raise
    # OpenCV's own error has no base but Exception, and a damaged file raises much else, MemoryError
    # among it. Whatever it is: this frame cannot be read, and the next one may be.
    except Exception as error:  # noqa: BLE001
        return Frame(path.name, None, f"{path.name}: {error}")
    if pixels is None:
        return Frame(path.name, None, f"{path.name}: not a readable image")
    return picture(path.name, pixels)


def picture(name: str, pixels: RawFrame) -> Frame:
    """A frame of OpenCV's: ``[h, w]`` grey or ``[h, w, 3]`` BGR."""
    return Frame(name, pixels, colour="GRAY" if pixels.ndim == 2 else "BGR")


def in_colour(frame: Frame, wanted: str) -> RawFrame | None:
    """The pixels in the order that a contract asks for: ``RGB``, ``BGR`` or ``GRAY``."""
    pixels = frame.pixels
    if pixels is None or frame.colour in ("AS_IS", wanted):
        return pixels
    if frame.colour == "GRAY":
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if wanted == "RGB":
        return pixels[:, :, ::-1]
    cv2 = _opencv("grey frames")
    grey: RawFrame = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    return grey


def _opencv(wanted_by: str) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise AgentError(
            f"{wanted_by}: images, video and cameras need OpenCV",
            hint="pip install 'wherry[vision]', or feed .npy files",
        ) from error
    cv2.setNumThreads(1)
    return cv2
