"""The versions that lie in the slots' directories: what they hold, and whether they are whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_agent.update.content import (
    FILES_DIR,
    MANIFEST_FILE,
    Content,
    holds,
    read_content,
    verify_content,
)
from edge_agent.update.pointer import NoSlot, SlotName
from edge_contract.errors import ContractError
from edge_contract.layout import fsync_dir
from edge_contract.manifest import Descriptor, Manifest

SLOT_NAMES: tuple[SlotName, SlotName] = ("A", "B")


class Slot(msgspec.Struct, frozen=True):
    """A filled slot. ``directory`` holds the bundle's files by their paths in the bundle."""

    name: SlotName
    directory: Path
    digest: str
    line: str
    version: str


class SlotFiles:
    """``slots/A`` and ``slots/B`` below ``state_dir``, and nothing about which of them runs.

    Args:
        state_dir: exists and is writable.
    """

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "slots"
        self._root.mkdir(exist_ok=True)
        if next(self._root.iterdir(), None) is None:
            fsync_dir(state_dir)

    def path(self, name: str) -> Path:
        """A slot's own directory, which a version fills or will fill."""
        return self._root / name

    def directory(self, name: str) -> Path:
        """Where the bundle's files of a slot lie, or will lie."""
        return self._root / name / FILES_DIR

    def size_bytes(self) -> int:
        """What lies in both slots, in bytes."""
        files = (path for path in self._root.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files)

    def blob(self, digest: str) -> Path | None:
        """A file in a slot that is this very blob, by its bytes: it need not be fetched again."""
        for name, content, manifest in self._versions():
            if content.digest == digest:
                return self._root / name / MANIFEST_FILE
            for layer in manifest.layers:
                file = self._root / name / FILES_DIR / layer.path
                if layer.digest == digest and layer.path in content.paths and holds(file, layer):
                    return file
        return None

    def layers(self) -> list[Descriptor]:
        """The files in the slots as their bundles name them; their bytes are not looked at."""
        return [
            layer
            for _, content, manifest in self._versions()
            for layer in manifest.layers
            if layer.path in content.paths
        ]

    def whole(self, name: SlotName | NoSlot, digest: str) -> bool:
        """Whether a slot holds this version with every byte of it."""
        if not name:
            return False
        try:
            verify_content(self._root / name, digest)
        except ContractError:
            return False
        return True

    def slot(self, name: SlotName | NoSlot, digest: str) -> Slot | None:
        """The slot, where it says that it holds this version."""
        if not name:
            return None
        try:
            return self.require(name, digest)
        except ContractError:
            return None

    def require(self, name: SlotName | NoSlot, digest: str) -> Slot:
        """The slot.

        Raises:
            ContractError: it does not say that it holds this version.
        """
        directory = self._root / name
        content, _ = read_content(directory)
        if not name or content.digest != digest:
            raise ContractError(f"{directory}: expected {digest}, it holds {content.digest}")
        return Slot(name, directory / FILES_DIR, digest, content.line, content.version)

    def clear(self, name: SlotName) -> None:
        """Remove a slot's version; it is gone from under its name before its files go."""
        old = self._root / name
        if old.exists():
            aside = self._root / f".{name}.old"
            shutil.rmtree(aside, ignore_errors=True)
            old.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def keep_only(self, names: set[SlotName | NoSlot]) -> None:
        """Remove what has none of these names: half-staged directories and other versions."""
        for entry in list(self._root.iterdir()):
            if entry.name not in names:
                shutil.rmtree(entry, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a power cut left half staged or half removed."""
        for entry in self._root.iterdir():
            if entry.name.startswith("."):
                shutil.rmtree(entry, ignore_errors=True)

    def _versions(self) -> Iterator[tuple[SlotName, Content, Manifest]]:
        for name in SLOT_NAMES:
            try:
                content, manifest = read_content(self._root / name)
            except ContractError:
                continue
            yield name, content, manifest
