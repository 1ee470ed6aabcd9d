"""What a metered link may carry in a day, both ways, all overhead counted.

A day is 24 hours of the device's running time, measured by a clock that never jumps: setting the
wall clock refills nothing, and time without power counts for nothing. What was spent stands on disk
*before* it is spent (a reserve at a time), so a power cut refills nothing either.

Who may speak depends on what is left, the least urgent stopping first. What keeps a device safe and
known (orders, metadata, acknowledgements, its own state) always passes and is counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge_contract.layout import write_durably

DAY_H = 24
_HOUR_S = 3600.0
_RUNNING_MAX_S = 1e10
"""Three centuries."""
RESERVE_BYTES = 32 * 1024
"""Written to disk ahead: one write for so many bytes, and at most so many lost to a power cut."""
SHARES = {
    "blob": 0.7,
    "drift": 0.8,
    "telemetry": 0.85,
    "telemetry_backfill": 0.8,
    "event": 0.9,
    "status": 0.95,
}
"""Class -> the share of the day's bytes up to which it may speak. Others always may."""
SEGMENT_BYTES = 1360
"""Of MQTT in one TCP segment on a mobile link."""
PACKET_BYTES = 52
"""IPv4 and TCP headers with timestamps; of a segment, and of its acknowledgement."""
RECORD_BYTES = 29
"""Of TLS 1.3 around one write."""
CONNECT_BYTES = 6000
"""TCP and TLS handshake with two certificates, CONNECT with its will, SUBSCRIBE."""
ASK_BYTES = 4 * (32 + RECORD_BYTES) + 8 * PACKET_BYTES
"""SUBSCRIBE to one topic and UNSUBSCRIBE, both answered, each answer acknowledged."""
PING_BYTES = 2 * (2 + RECORD_BYTES) + 4 * PACKET_BYTES
"""One keepalive, there and back, each acknowledged."""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int = 1
    boot_id: str
    monotonic_s: float
    running_s: float
    spent: dict[int, int]
    """Hour of running time -> bytes."""


class ByteBudget:
    """Counts bytes and says who may speak.

    Args:
        path: where the count is kept.
        limit_bytes: of 24 hours; 0 for a link that is not metered, where nothing is kept.
        monotonic_s: the kernel's clock, counting from its boot.
        kernel_boot_id: tells whether that clock went on since the last start.
    """

    def __init__(
        self,
        path: Path,
        limit_bytes: int,
        monotonic_s: Callable[[], float],
        kernel_boot_id: str,
    ) -> None:
        self._path = path
        self.limit_bytes = limit_bytes
        self._monotonic_s = monotonic_s
        self._boot_id = kernel_boot_id
        self._started_s = monotonic_s()
        self._ran_s = 0.0
        self._spent: dict[int, int] = {}
        self._reserve_bytes = 0
        self._waiting: set[str] = set()
        self.damaged = False
        """The count was unreadable: the day was taken as spent."""
        if limit_bytes:
            self._load()

    @property
    def metered(self) -> bool:
        """Whether anything is counted."""
        return self.limit_bytes > 0

    @property
    def spent_bytes(self) -> int:
        """In the last 24 hours of running time (up to one more, for hours are counted whole)."""
        first = self._hour() - DAY_H
        return sum(size for hour, size in self._spent.items() if hour >= first)

    @property
    def exhausted(self) -> bool:
        """Whether the day's bytes are gone."""
        return self.metered and self.spent_bytes >= self.limit_bytes

    def spend(self, size_bytes: int) -> None:
        """Count what went over the link, either way."""
        if not self.limit_bytes:
            return
        hour = self._hour()
        self._spent[hour] = self._spent.get(hour, 0) + size_bytes
        self._reserve_bytes -= size_bytes
        if self._reserve_bytes < 0:
            self._reserve_bytes = RESERVE_BYTES
            self._save()

    def allows(self, cls: str) -> bool:
        """Whether this class may speak now; one that may not is remembered as waiting."""
        if not self.limit_bytes or self.spent_bytes < self._share_bytes(cls):
            self._waiting.discard(cls)
            return True
        self._waiting.add(cls)
        return False

    def blob_room_bytes(self) -> float:
        """What is left for blobs today, their overhead taken off."""
        if not self.limit_bytes:
            return float("inf")
        left = self._share_bytes("blob") - self.spent_bytes
        return max(0.0, left * SEGMENT_BYTES / (SEGMENT_BYTES + 2 * PACKET_BYTES + RECORD_BYTES))

    def close(self) -> None:
        """Keep the exact count; the reserve is given back."""
        if self.limit_bytes:
            self._reserve_bytes = 0
            self._save()

    def status(self) -> dict[str, Any]:
        """For ``edge-agent status``."""
        return {
            "metered": self.metered,
            "limit_bytes_per_day": self.limit_bytes,
            "spent_bytes": self.spent_bytes,
            "waiting": sorted(self._waiting),
            "count_was_damaged": self.damaged,
        }

    def _share_bytes(self, cls: str) -> float:
        return self.limit_bytes * SHARES[cls] if cls in SHARES else float("inf")

    def _running_s(self) -> float:
        return self._ran_s + max(0.0, self._monotonic_s() - self._started_s)

    def _hour(self) -> int:
        return int(self._running_s() // _HOUR_S)

    def _load(self) -> None:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_File)
            if not _is_possible(kept):
                raise ValueError("a count that nobody wrote")
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, ValueError):
            # Whoever damages the count must not gain a day by it.
            self.damaged = True
            self._spent = {0: self.limit_bytes}
            return
        self._spent = dict(kept.spent)
        self._ran_s = kept.running_s
        if kept.boot_id == self._boot_id:
            self._ran_s += max(0.0, self._started_s - kept.monotonic_s)

    def _save(self) -> None:
        hour = self._hour()
        self._spent = {h: size for h, size in self._spent.items() if h >= hour - DAY_H}
        spent = dict(self._spent)
        if self._reserve_bytes > 0:
            spent[hour] = spent.get(hour, 0) + self._reserve_bytes
        kept = _File(
            boot_id=self._boot_id,
            monotonic_s=self._monotonic_s(),
            running_s=self._running_s(),
            spent=spent,
        )
        # A full disk must not stop the link; the count holds in memory.
        with contextlib.suppress(OSError):
            write_durably(self._path, msgspec.json.encode(kept))


def _is_possible(kept: _File) -> bool:
    """Whether a count can have come about: hours that have been, sizes that are some."""
    hours_count = kept.running_s / _HOUR_S
    return (
        0 <= kept.running_s <= _RUNNING_MAX_S
        and 0 <= kept.monotonic_s <= _RUNNING_MAX_S
        and all(0 <= hour <= hours_count and size >= 0 for hour, size in kept.spent.items())
    )


def message_bytes(topic: str, body_bytes: int, *, qos: int = 1) -> int:
    """What one MQTT message costs on the wire, there and back: a stated estimate.

    Args:
        topic: of the message.
        body_bytes: payload and user properties.
        qos: 1 has a PUBACK, which is acknowledged in its turn.
    """
    mqtt = 5 + 2 + len(topic) + 2 + 4 + body_bytes
    segments = -(-mqtt // SEGMENT_BYTES)
    acknowledgements = -(-segments // 2)
    total = mqtt + RECORD_BYTES + (segments + acknowledgements) * PACKET_BYTES
    return total + (4 + RECORD_BYTES + 2 * PACKET_BYTES if qos else 0)
