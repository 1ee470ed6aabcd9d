"""Makes a blob from one that the device holds and a delta. The result's digest decides."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from edge_contract.delta import apply_delta
from edge_contract.errors import TrustError
from edge_contract.layout import fsync_dir
from edge_contract.manifest import Descriptor


def rebuild_blob(delta: Path, base: Path, target: Path, wanted: Descriptor) -> None:
    """Apply ``delta`` to ``base`` and put the result at ``target``, durably or not at all.

    Memory stays below 64 MB whatever the sizes; the file never grows beyond ``wanted.size``.

    Raises:
        ContractError: the delta is damaged, truncated, or for another base.
        TrustError: the result is not the blob that was wanted.
        OSError: no space, or a file cannot be read.
    """
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    state = hashlib.sha256()
    try:
        with delta.open("rb") as changes, base.open("rb") as old, part.open("xb") as new:
            base_bytes = os.fstat(old.fileno()).st_size
            for chunk in apply_delta(changes, old, target_bytes=wanted.size, base_bytes=base_bytes):
                state.update(chunk)
                new.write(chunk)
            new.flush()
            os.fsync(new.fileno())
        actual = "sha256:" + state.hexdigest()
        if actual != wanted.digest:
            raise TrustError(f"delta: its result is {actual[:19]}…, expected {wanted.digest[:19]}…")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    fsync_dir(target.parent)
