"""Sends blocks of blobs at QoS 0 on a thread of its own, so that transfers never hold up ingest.

Back-pressure: paho queues what the socket does not take, without a bound. So blocks that are not
yet written to the socket are counted, and no new one is handed over while they are too many.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_contract.codec import encode_msgpack
from edge_contract.digest import hex_of
from edge_contract.messages import BlobBlock
from edge_contract.topics import broadcast_topic, topic
from fleet.clock import Clock
from fleet.errors import FleetError
from fleet.transfer.fair_queue import Block, FairQueue, Want
from fleet.transfer.total_rate import TotalRate

RATE_BYTES_S = 16e6
"""Per device; above what a device's flash takes, below what would crowd out telemetry."""
BURST_BYTES = 4e6
"""A device's largest window."""
UNSENT_BYTES_MAX = 2_000_000
"""Handed to paho and not written to the socket yet."""
_WAIT_S = 0.005
_FILES_MAX = 32
_SAMPLE_S = 0.2

_log = logging.getLogger(__name__)


class Sent(Protocol):
    """A message on its way: paho's ``MQTTMessageInfo``, or a test's."""

    def is_published(self) -> bool:
        """Whether it was written to the socket, or given up."""


@dataclass
class _Seen:
    """What was seen of one device's link since its last question that began anew."""

    at_s: float = 0.0
    served_bytes: int = 0
    bytes_s: float = 0.0


class BlobServer:
    """Answers devices' questions for blocks.

    Args:
        fleet: for the topics.
        path_of: the file of a blob by digest.
        publish: hands one QoS 0 message to the MQTT client; None while it is not connected.
        clock: for rates.
        rate_bytes_s, burst_bytes: of one device.
        total: of all together, over other transports as well; None for no limit.
        unsent_bytes_max: handed to the MQTT client and not written out yet.
    """

    def __init__(
        self,
        fleet: str,
        path_of: Callable[[str], Path],
        publish: Callable[[str, bytes], Sent | None],
        clock: Clock,
        *,
        rate_bytes_s: float = RATE_BYTES_S,
        burst_bytes: float = BURST_BYTES,
        total: TotalRate | None = None,
        unsent_bytes_max: int = UNSENT_BYTES_MAX,
    ) -> None:
        self._fleet = fleet
        self._path_of = path_of
        self._publish = publish
        self._clock = clock
        self._unsent_bytes_max = unsent_bytes_max
        self._queue = FairQueue(rate_bytes_s=rate_bytes_s, burst_bytes=burst_bytes, total=total)
        self._changed = threading.Condition()
        self._unsent: deque[tuple[Sent, int]] = deque()
        self._unsent_bytes = 0
        self._files: OrderedDict[str, int] = OrderedDict()
        self._seen: dict[str, _Seen] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="blob-server", daemon=True)
        self.bytes_sent = 0
        """Payload bytes of blocks since the start."""
        self.bytes_delivered = 0
        """The same, a broadcast counted once a device that waited for it."""

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and let go of the files."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def ask(self, device: str, want: Want) -> None:
        """Take a checked question of a device that may have this blob."""
        with self._changed:
            now_s = self._clock.monotonic_s()
            self._measure(device, want, now_s)
            self._queue.ask(device, want, now_s)
            self._changed.notify()

    def goodput_bytes_s(self) -> dict[str, float]:
        """What each device's link was seen to carry, by how soon it asked for more."""
        with self._changed:
            return {device: seen.bytes_s for device, seen in self._seen.items() if seen.bytes_s}

    def _measure(self, device: str, want: Want, now_s: float) -> None:
        seen = self._seen.setdefault(device, _Seen())
        served_bytes = self._queue.served_bytes[device]
        lasted_s = now_s - seen.at_s
        if want.more and lasted_s < _SAMPLE_S:
            return
        if want.more and served_bytes > seen.served_bytes:
            sample = (served_bytes - seen.served_bytes) / lasted_s
            seen.bytes_s = sample if not seen.bytes_s else 0.7 * seen.bytes_s + 0.3 * sample
        seen.at_s, seen.served_bytes = now_s, served_bytes

    def forget(self, device: str) -> None:
        """The device is gone."""
        with self._changed:
            self._queue.forget(device)

    def disconnected(self) -> None:
        """The broker is gone: devices will ask again."""
        with self._changed:
            self._queue.clear()
            # Given up with the connection, whatever the MQTT client says of them.
            self._unsent.clear()
            self._unsent_bytes = 0

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and not self._queue:
                    self._changed.wait()
                if self._stopping:
                    break
                self._settle()
                block = None
                if self._unsent_bytes < self._unsent_bytes_max:
                    block = self._queue.next(self._clock.monotonic_s())
                if block is None:
                    self._changed.wait(_WAIT_S)
                    continue
            self._send(block)
        for handle in self._files.values():
            os.close(handle)
        self._files.clear()

    def _settle(self) -> None:
        while self._unsent and self._unsent[0][0].is_published():
            self._unsent_bytes -= self._unsent.popleft()[1]

    def _send(self, block: Block) -> None:
        try:
            data = os.pread(self._open(block.digest), block.length_bytes, block.offset_bytes)
        except (OSError, FleetError) as error:
            # The device asks again; a blob that stays unreadable is the repository's trouble.
            _log.error("cannot read blob %s: %s", block.digest, error)
            return
        message = BlobBlock(
            digest=block.digest,
            offset_bytes=block.offset_bytes,
            size_bytes=block.size_bytes,
            data=data,
        )
        payload = encode_msgpack(message)
        to = (
            topic(self._fleet, block.device, "blob", "data")
            if block.device
            else broadcast_topic(self._fleet, hex_of(block.digest))
        )
        sent = self._publish(to, payload)
        if sent is not None:
            with self._changed:
                self._unsent.append((sent, len(payload)))
                self._unsent_bytes += len(payload)
            self.bytes_sent += len(data)
            self.bytes_delivered += len(data) * block.shared_count

    def _open(self, digest: str) -> int:
        handle = self._files.get(digest)
        if handle is None:
            handle = os.open(self._path_of(digest), os.O_RDONLY)
            self._files[digest] = handle
            if len(self._files) > _FILES_MAX:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(digest)
        return handle
