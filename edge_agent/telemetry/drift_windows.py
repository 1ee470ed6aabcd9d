"""Merging drift windows when the spool runs short: exact, within one version and its edges."""

from __future__ import annotations

from edge_contract.codec import decode_msgpack, encode_msgpack
from edge_contract.messages import DriftWindow
from edge_contract.sketch import DriftSketch


def merge_windows(earlier: bytes, later: bytes) -> bytes | None:
    """Two neighbouring windows of one boot as one; None where they do not merge.

    Raises:
        ContractError: one of them is malformed.
    """
    a = decode_msgpack(earlier, DriftWindow, what="spooled drift window")
    b = decode_msgpack(later, DriftWindow, what="spooled drift window")
    one, two = DriftSketch.decode(a.sketch), DriftSketch.decode(b.sketch)
    if a.model_version != b.model_version or one.edges_digest != two.edges_digest:
        return None
    return encode_msgpack(
        DriftWindow(
            schema=b.schema,
            ts=b.ts,
            seq_first=a.seq_first,
            seq=b.seq,
            boot_id=b.boot_id,
            model_version=b.model_version,
            window_s=a.window_s + b.window_s,
            sketch=one.merge(two).encode(),
        )
    )
