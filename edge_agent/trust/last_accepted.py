"""The last order and the last medium that were accepted, as they are kept across restarts."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from edge_agent.errors import DamagedTrustError
from edge_agent.trust.kept_file import read_kept
from edge_agent.trust.media import LastMedium
from edge_agent.trust.order import LastOrder
from edge_contract.codec import decode_json, encode_json
from edge_contract.errors import ContractError
from edge_contract.layout import write_durably

T = TypeVar("T")


class _OrderFile(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    epoch: int
    seq: int
    document: str


class _MediumFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int = 1
    sequence: int
    document: str


def load_last_order(path: Path) -> LastOrder | None:
    """The last accepted order; None before the first.

    Raises:
        DamagedTrustError: the file is damaged. Starting anew would let old orders in.
    """
    kept = _load(path, _OrderFile)
    return LastOrder(kept.epoch, kept.seq, kept.document) if kept else None


def save_last_order(path: Path, last: LastOrder) -> None:
    """Keep it; durable when this returns."""
    kept = _OrderFile(epoch=last.epoch, seq=last.seq, document=last.document)
    write_durably(path, encode_json(kept))


def load_last_medium(path: Path) -> LastMedium:
    """The last accepted medium; ``LastMedium()`` before the first.

    Raises:
        DamagedTrustError: the file is damaged. Starting anew would let old media in.
    """
    kept = _load(path, _MediumFile)
    return LastMedium(kept.sequence, kept.document) if kept else LastMedium()


def save_last_medium(path: Path, last: LastMedium) -> None:
    """Keep it; durable when this returns."""
    kept = _MediumFile(sequence=last.sequence, document=last.document)
    write_durably(path, encode_json(kept))


def _load(path: Path, kind: type[T]) -> T | None:
    data = read_kept(path)
    if data is None:
        return None
    try:
        return decode_json(data, kind, what=str(path))
    except ContractError as error:
        raise DamagedTrustError(
            f"{error}; new installs stop, what runs keeps running",
            hint=f"if the disk was damaged and the device is yours, remove {path}",
        ) from error
