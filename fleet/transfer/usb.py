"""Writes a medium for devices that no network reaches, and reads what they bring back.

A medium is a directory with ``bundle/``, ``media.json`` and, later, ``receipts/``. It appears
under its name only when it is whole.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge_contract.codec import DOCUMENT_LIMIT_BYTES
from edge_contract.digest import digest_of, hex_of
from edge_contract.errors import ContractError
from edge_contract.layout import BundleDir, fsync_dir, index_for, staged_directory, write_durably
from edge_contract.manifest import Manifest
from edge_contract.media import MEDIA_FILE, MediaSet, encode_media_set
from edge_contract.receipt import RECEIPTS_DIR, Receipt, decode_receipt
from fleet.errors import FleetError

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
RECEIPTS_MAX = 10_000
_LEFT_OVER = re.compile(r"[a-z0-9_]{8}")
"""What ``staged_directory`` puts behind the name."""


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
            f"{doing} {directory}: {why}; nothing half-done bears the medium's name", hint=hint
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
        TrustError: what was read back is not what was published.
    """
    if target.exists():
        raise FleetError(
            f"{target} exists already", hint="export to another directory, or remove it"
        )
    descriptors = {d.digest: d for d in (manifest.config, *manifest.layers)}
    needed_bytes = sum(d.size for d in descriptors.values()) + len(manifest_bytes)
    with medium_errors(target.parent, "writing to"):
        _remove_left_over(target)
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
                    # The check below then reads what the stick holds, not what was meant for it.
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            write_durably(blobs / hex_of(digest_of(manifest_bytes)), manifest_bytes)
            write_durably(staging / "bundle" / "oci-layout", _LAYOUT)
            index = index_for(manifest_bytes, version)
            write_durably(staging / "bundle" / "index.json", index)
            BundleDir(staging / "bundle").verify()
            (staging / RECEIPTS_DIR).mkdir()
            write_durably(staging / MEDIA_FILE, encode_media_set(media()))
        fsync_dir(target.parent)
    return needed_bytes


def _remove_left_over(target: Path) -> None:
    """What an export left behind whose stick was pulled out, or that was killed."""
    prefix = f".{target.name}."
    for path in target.parent.glob(f"{prefix}*"):
        if _LEFT_OVER.fullmatch(path.name.removeprefix(prefix)) and not path.is_symlink():
            shutil.rmtree(path)


class ReceiptsFound(msgspec.Struct, frozen=True):
    """What lies on a medium. ``refused``: one sentence for each file that is no receipt."""

    receipts: list[Receipt]
    refused: list[str]


def read_receipts(directory: Path) -> ReceiptsFound:
    """Every receipt on a medium (or below it, where several were exported to one stick).

    A file that is none costs the others nothing: many devices write to one stick.

    Raises:
        FleetError: there is none, there are too many, or the stick cannot be read.
    """
    receipts: list[Receipt] = []
    refused: list[str] = []
    with medium_errors(directory, "reading"):
        if not directory.is_dir():
            raise OSError(errno.ENOENT, "gone")
        places = [directory / RECEIPTS_DIR, *sorted(directory.glob(f"*/{RECEIPTS_DIR}"))]
        found = itertools.chain.from_iterable(place.glob("*.json") for place in places)
        files = sorted(itertools.islice(found, RECEIPTS_MAX + 1))
        if len(files) > RECEIPTS_MAX:
            raise FleetError(
                f"{directory}: more than {RECEIPTS_MAX} receipts; import them in parts"
            )
        for file in files:
            try:
                receipts.append(decode_receipt(_read_plain(file), where=str(file)))
            except ContractError as error:
                refused.append(error.message)
    if not files:
        raise FleetError(
            f"{directory}: no receipts there", hint="on the device: edge-agent apply DIR"
        )
    return ReceiptsFound(receipts, refused)


def _read_plain(file: Path) -> bytes:
    """The file, to a limit: a link may lead anywhere, and a pipe is waited for without end.

    Raises:
        ContractError: no plain file.
        OSError: it cannot be read.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ContractError(f"{file}: no plain file") from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ContractError(f"{file}: no plain file")
    with os.fdopen(handle, "rb") as opened:
        return opened.read(DOCUMENT_LIMIT_BYTES + 1)
