"""A spool with short defaults, and records that say which sequence numbers they speak for."""

from __future__ import annotations

import json
import random
from base64 import b85encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.telemetry.spool import Spool, SpoolRecord

QUOTAS = {"telemetry": 0.4, "drift": 0.2, "event": 0.2, "status": 0.2}


def _merge_spans(earlier: bytes, later: bytes) -> bytes | None:
    """Merges payloads of ``span``; refuses across models, and to join what is not adjacent."""
    a, b = json.loads(earlier), json.loads(later)
    assert a["last"] + 1 == b["first"], "only neighbours may be offered"
    if a["model"] != b["model"]:
        return None
    return json.dumps({**b, "first": a["first"], "sum": a["sum"] + b["sum"]}).encode()


@pytest.fixture
def merge() -> dict[str, Callable[[bytes, bytes], bytes | None]]:
    """Merges telemetry made by ``span``."""
    return {"telemetry": _merge_spans}


@pytest.fixture
def cap_bytes() -> int:
    """What ``open_spool`` sets unless told otherwise."""
    return 1024 * 1024


@pytest.fixture
def span() -> Callable[..., Callable[[int], bytes]]:
    """``append(cls, span(size_bytes=...))``: a payload that cannot be compressed away."""

    def make(size_bytes: int = 0, model: str = "1.0.0") -> Callable[[int], bytes]:
        def payload(seq: int) -> bytes:
            filler = b85encode(random.Random(seq).randbytes(size_bytes * 4 // 5)).decode()
            return json.dumps(
                {"first": seq, "last": seq, "sum": seq, "model": model, "filler": filler}
            ).encode()

        return payload

    return make


@pytest.fixture
def open_spool(tmp_path: Path, cap_bytes: int) -> Iterator[Callable[..., Spool]]:
    """Opens spools in one directory; what is still open at the end is closed."""
    opened: list[Spool] = []

    def open_(**changes: Any) -> Spool:
        settings: dict[str, Any] = {
            "path": tmp_path / "spool.db",
            "cap_bytes": cap_bytes,
            "quotas": QUOTAS,
            "boot_id": "boot-1",
            "merge": {},
            "clock": lambda: 1_700_000_000.0,
            "token": lambda: "f00d",
        }
        spool = Spool.open(**{**settings, **changes})
        opened.append(spool)
        return spool

    yield open_
    for spool in opened:
        spool.close()


@pytest.fixture
def drain() -> Callable[..., list[SpoolRecord]]:
    """Everything that a class has to send, without acknowledging."""

    def take(spool: Spool, cls: str = "telemetry") -> list[SpoolRecord]:
        spool.reset_in_flight()
        records: list[SpoolRecord] = []
        while batch := spool.next_batch(cls):
            records += batch
        return records

    return take
