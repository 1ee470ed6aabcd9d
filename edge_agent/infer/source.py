"""Where frames come from: a directory, a video file or a camera.

A source yields raw frames in the colour order that the running model's contract asks for. It is
read by the capture thread alone; what it cannot read is reported and skipped, never fatal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_agent.config import SourceSection
from edge_agent.errors import AgentError

RawFrame = npt.NDArray[np.generic]
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Frame:
    """One raw frame and its name; ``pixels`` is None where it could not be read (``error``)."""

    name: str
    pixels: RawFrame | None
    error: str = ""


class Source(Protocol):
    """Yields frames until it is exhausted. ``colour()`` is asked anew for every frame."""

    def frames(self, colour: Callable[[], str]) -> Iterator[Frame]: ...


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

    def __init__(self, path: Path, *, loop: bool) -> None:
        self.path = path
        self.loop = loop

    def frames(self, colour: Callable[[], str]) -> Iterator[Frame]:
        """Every readable file, again and again where ``loop`` is set."""
        while True:
            names = self._names()
            if not names:
                yield Frame(
                    str(self.path), None, f"no image or .npy file in {self.path}, or not readable"
                )
            for name in names:
                yield read_file(self.path / name, colour())
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
        self.camera = camera
        self.loop = loop
        self._cv2 = _opencv(f"source {path}")

    def frames(self, colour: Callable[[], str]) -> Iterator[Frame]:
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
                    yield Frame(f"{self.path}#{index}", from_bgr(pixels, colour()))
                    index += 1
            finally:
                capture.release()
            if index == 0 or self.camera:
                yield Frame(self.path, None, f"{self.path}: no frame could be read")
            elif not self.loop:
                return


def read_file(path: Path, colour: str) -> Frame:
    """One ``.npy`` array or image file as a raw frame."""
    try:
        if path.suffix.lower() == ".npy":
            return Frame(path.name, np.load(path, allow_pickle=False))
        cv2 = _opencv(str(path))
        flag = cv2.IMREAD_GRAYSCALE if colour == "GRAY" else cv2.IMREAD_COLOR
        # imread would print to stderr and return None for every kind of trouble alike.
        data = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(data, flag) if data.size else None
    except (OSError, ValueError, EOFError) as error:
        return Frame(path.name, None, f"{path.name}: {error}")
    if pixels is None:
        return Frame(path.name, None, f"{path.name}: not a readable image")
    return Frame(path.name, pixels if colour == "GRAY" else from_bgr(pixels, colour))


def from_bgr(pixels: RawFrame, colour: str) -> RawFrame:
    """OpenCV's BGR ``[h, w, 3]`` in the asked order: ``BGR``, ``RGB`` or ``GRAY``."""
    if colour == "GRAY":
        cv2 = _opencv("grey frames")
        grey: RawFrame = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        return grey
    return pixels[:, :, ::-1] if colour == "RGB" else pixels


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
