"""Writes a medium for devices that no network reaches, and reads what they bring back.

A medium is a directory with ``bundle/``, ``media.json`` and, later, ``receipts/``. It appears
under its name only when it is whole.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_contract.digest import digest_of, hex_of
from edge_contract.layout import fsync_dir, index_for, staged_directory, write_durably
from edge_contract.manifest import Manifest
from edge_contract.media import MEDIA_FILE, MediaSet, encode_media_set
from edge_contract.receipt import RECEIPTS_DIR, Receipt, decode_receipt
from fleet.errors import FleetError

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_RECEIPT_MAX_BYTES = 4 << 20


@contextmanager
def medium_errors(directory: Path, doing: str) -> Iterator[None]:
    """Turns what a stick can do to a program into one sentence each.

    Raises:
        FleetError: in place of any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        words = {
            errno.EROFS: ("it is read-only", "unlock the stick, or mount it for writing"),
            errno.EACCES: ("no right to write there", "mount it for this user"),
            errno.ENOSPC: ("it is full", f"make room: df -h {directory}"),
            errno.EIO: ("it does not answer; was it pulled out?", "put it in again and repeat"),
            errno.ENODEV: ("it is gone; was it pulled out?", "put it in again and repeat"),
            errno.ENOENT: ("it is gone; was it pulled out?", "put it in again and repeat"),
        }
        why, hint = words.get(error.errno or 0, (error.strerror or str(error), ""))
        raise FleetError(
            f"{doing} {directory}: {why}; nothing half-done is left", hint=hint
        ) from error


def write_medium(
    target: Path,
    *,
    media: Callable[[], MediaSet],
    manifest_bytes: bytes,
    manifest: Manifest,
    version: str,
    blob_path: Callable[[str], Path],
) -> int:
    """Write the medium; returns its bytes.

    Args:
        target: the medium's directory; must not exist.
        media: makes the signed documents, once the bundle is on the medium.
        manifest_bytes, manifest, version: of the bundle.
        blob_path: the file of each blob.

    Raises:
        FleetError: it exists already, or the stick refuses.
    """
    if target.exists():
        raise FleetError(
            f"{target} exists already", hint="export to another directory, or remove it"
        )
    descriptors = {d.digest: d for d in (manifest.config, *manifest.layers)}
    needed_bytes = sum(d.size for d in descriptors.values()) + len(manifest_bytes)
    with medium_errors(target.parent, "writing to"):
        free_bytes = shutil.disk_usage(target.parent).free
        if free_bytes < needed_bytes:
            raise OSError(errno.ENOSPC, "no space")
        with staged_directory(target) as staging:
            blobs = staging / "bundle" / "blobs" / "sha256"
            blobs.mkdir(parents=True)
            for descriptor in descriptors.values():
                copy = blobs / hex_of(descriptor.digest)
                shutil.copyfile(blob_path(descriptor.digest), copy)
                with copy.open("rb+") as file:
                    os.fsync(file.fileno())
            write_durably(blobs / hex_of(digest_of(manifest_bytes)), manifest_bytes)
            write_durably(staging / "bundle" / "oci-layout", _LAYOUT)
            index = index_for(manifest_bytes, version)
            write_durably(staging / "bundle" / "index.json", index)
            (staging / RECEIPTS_DIR).mkdir()
            write_durably(staging / MEDIA_FILE, encode_media_set(media()))
        fsync_dir(target.parent)
    return needed_bytes


def read_receipts(directory: Path) -> list[Receipt]:
    """Every receipt on a medium (or below it, where several were exported to one stick).

    Raises:
        FleetError: there is none, or the stick cannot be read.
        ContractError: one is malformed; none is imported then.
    """
    with medium_errors(directory, "reading"):
        if not directory.is_dir():
            raise OSError(errno.ENOENT, "gone")
        places = [directory / RECEIPTS_DIR, *sorted(directory.glob(f"*/{RECEIPTS_DIR}"))]
        files = [file for place in places for file in sorted(place.glob("*.json"))]
        found = []
        for file in files:
            with file.open("rb") as opened:
                data = opened.read(_RECEIPT_MAX_BYTES)
            found.append(decode_receipt(data, where=str(file)))
    if not found:
        raise FleetError(
            f"{directory}: no receipts there", hint="on the device: edge-agent apply DIR"
        )
    return found
