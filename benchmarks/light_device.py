"""A device for benchmarks: the agent's own puller over a small MQTT 5 client on asyncio.

paho's loop stops at a few hundred connections a process; this one holds thousands. It speaks the
protocol of ``docs/protocols/mqtt.md`` (enrolment, state, will, signed questions) and checks no
order.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import struct
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.transfer.pace import Pace
from edge_agent.transfer.pull import BlobPuller
from edge_contract.codec import decode_json, decode_msgpack, encode_json
from edge_contract.digest import hex_of
from edge_contract.intervals import IntervalSet
from edge_contract.manifest import Descriptor
from edge_contract.messages import Ack, BlobAsk, BlobBlock, Enrol, Online
from edge_contract.signing import SIGNATURE_PROPERTY, fingerprint, public_bytes, sign_message
from edge_contract.topics import broadcast_topic, device_filters, topic
from tests.device_words import said_state, said_summary

TICK_S = 0.25
RECONNECT_S = 0.2


class LightDevice:
    """One device that pulls ``wants`` as soon as an order comes.

    Args:
        name, fleet, line, hardware: who it is.
        address: (host, port) of the broker.
        state_dir: for the puller.
        wants: what to pull.
        listening: hear what is sent to all.
        keepalive_s: 0 for none.
    """

    def __init__(
        self,
        name: str,
        fleet: str,
        address: tuple[str, int],
        state_dir: Path,
        wants: list[Descriptor],
        *,
        line: str = "digits",
        hardware: str = "generic-x86-64",
        listening: bool = False,
        telemetry_every_s: float = 0.0,
        keepalive_s: int = 20,
    ) -> None:
        self.name, self.fleet, self._line, self._hardware = name, fleet, line, hardware
        self._address = address
        self._wants = wants
        self._listening = listening
        self._telemetry_every_s = telemetry_every_s
        self._keepalive_s = keepalive_s
        self._key = Ed25519PrivateKey.generate()
        self._boot_id = secrets.token_hex(4)
        self._connection_id = ""
        self._writer: asyncio.StreamWriter | None = None
        self._packet_ids = itertools.cycle(range(1, 65536))
        self._seqs = itertools.count(1)
        self._telemetry_seqs = itertools.count(1)
        self._sent_s: dict[int, tuple[float, bytes]] = {}
        self.delays_s: list[float] = []
        """Of each telemetry record: from its sending to the fleet's word that it is committed."""
        self.puller = BlobPuller(state_dir, self._ask, self._finished, pace=Pace())
        self.ended: str | None = None
        self.begun_s = 0.0
        self.lasted_s = 0.0
        self.connections_count = 0
        self.cuts_at_bytes: list[int] = []
        """Progress at which the connection is to break."""
        self.on_end: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Connect, again and again, until cancelled."""
        ticker = asyncio.create_task(self._tick())
        try:
            while True:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await self._connection()
                self._writer = None
                await asyncio.sleep(RECONNECT_S)
        finally:
            ticker.cancel()
            if self._writer is not None:
                self._writer.transport.abort()

    def cut(self) -> None:
        """Break the connection without a word."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    def ready(self) -> None:
        """Say what the device is; a rollout then finds it."""
        state = said_state(
            **self._header(),
            connection_id=self._connection_id,
            hardware=self._hardware,
            device_key=fingerprint(public_bytes(self._key)),
            line=self._line,
            active_slot="",
            update_phase="idle",
            desired_epoch=0,
        )
        self._publish(self._own("state", "agent"), encode_json(state), retain=True)

    # --------------------------------------------------------------------------------------------

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection(*self._address)
        self._connection_id = secrets.token_hex(8)
        will_topic, will = self._own("state", "online"), encode_json(self._online(online=False))
        properties = self._properties(will_topic, will)
        body = _text("MQTT") + bytes([5, 0x02 | 0x80 | 0x04 | 0x08 | 0x20])
        body += struct.pack(">H", self._keepalive_s) + b"\0"
        body += _text(f"{self.fleet}.{self.name}") + properties + _text(will_topic)
        body += _text(will) + _text(f"{self.fleet}/{self.name}")
        writer.write(_packet(0x10, body))
        kind, answer = await _read_packet(reader)
        if kind != 0x20 or answer[1]:
            raise OSError(f"the broker refuses: {answer[:4].hex()}")
        self._writer = writer
        self.connections_count += 1
        self._subscribe(device_filters(self.fleet, self.name, self._line))
        self._publish(will_topic, encode_json(self._online(online=True)), retain=True)
        enrol = Enrol(
            device=self.name,
            hardware=self._hardware,
            line=self._line,
            public=public_bytes(self._key).hex(),
            agent_version="0.1.0",
        )
        enrol_topic = topic(self.fleet, "_fleet", "enroll", self.name)
        self._publish(enrol_topic, encode_json(enrol))
        self.ready()
        self.puller.reconnected(time.monotonic())
        for _, payload in self._sent_s.values():
            self._publish(self._own("telemetry", "summary"), payload)
        while self._writer is writer:
            kind, body = await _read_packet(reader)
            if kind & 0xF0 == 0x30:
                self._hear(kind, body)

    def _hear(self, kind: int, body: bytes) -> None:
        (length,) = struct.unpack_from(">H", body)
        name = body[2 : 2 + length].decode()
        at = 2 + length
        if kind & 0x06:
            (packet_id,) = struct.unpack_from(">H", body, at)
            at += 2
            self._write(_packet(0x40, struct.pack(">H", packet_id)))
        skipped, at = _varint(body, at)
        payload = body[at + skipped :]
        tail = name.split("/", 4)[-1]
        now_s = time.monotonic()
        if tail == "blob/data" or (tail.startswith("blob/") and "/_fleet/" in name):
            block = decode_msgpack(payload, BlobBlock, what=name)
            self.puller.block(block, now_s, shared="/_fleet/" in name)
            done_bytes = self.puller.progress.done_bytes
            if self.cuts_at_bytes and done_bytes >= self.cuts_at_bytes[0]:
                self.cuts_at_bytes.pop(0)
                self.cut()
        elif tail == "desired/model" and payload and self.ended is None and not self.begun_s:
            self.begun_s = now_s
            self.puller.want(self._wants, now_s)
        elif tail == "blob/refused":
            self._finished(payload.decode())
        elif tail == "rsp/ack":
            self._acknowledged(decode_json(payload, Ack, what=name), now_s)

    def _acknowledged(self, ack: Ack, now_s: float) -> None:
        done = IntervalSet(ack.ranges)
        for seq in [seq for seq in self._sent_s if ack.cls == "telemetry" and seq in done]:
            self.delays_s.append(now_s - self._sent_s.pop(seq)[0])

    def _ask(self, ask: BlobAsk) -> bool:
        if self._writer is None:
            return False
        if self._listening:
            self._subscribe([broadcast_topic(self.fleet, hex_of(ask.digest))])
            ask = BlobAsk(
                digest=ask.digest,
                block_bytes=ask.block_bytes,
                missing=ask.missing,
                more=ask.more,
                listening=True,
            )
        self._publish(self._own("blob", "ask"), encode_json(ask))
        return True

    def _finished(self, reason: str) -> None:
        if self.ended is None:
            self.ended = reason
            self.lasted_s = time.monotonic() - self.begun_s
            self.on_end()

    async def _tick(self) -> None:
        due_s = ping_s = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            self.puller.tick(now_s, online=self._writer is not None)
            if self._telemetry_every_s and now_s >= due_s:
                due_s = now_s + self._telemetry_every_s
                self._say_telemetry(now_s)
            if self._keepalive_s and now_s >= ping_s:
                ping_s = now_s + self._keepalive_s / 2
                self._write(_packet(0xC0, b""))

    def _say_telemetry(self, now_s: float) -> None:
        seq = next(self._telemetry_seqs)
        summary = said_summary(
            ts=time.time(), seq=seq, boot_id=self._boot_id, model_version="", window_s=1.0
        )
        payload = encode_json(summary)
        self._sent_s[seq] = (now_s, payload)
        self._publish(self._own("telemetry", "summary"), payload)

    # --------------------------------------------------------------------------------------------

    def _online(self, *, online: bool) -> Online:
        return Online(**self._header(), connection_id=self._connection_id, online=online)

    def _header(self) -> dict[str, object]:
        return {
            "ts": time.time(),
            "seq": next(self._seqs),
            "boot_id": self._boot_id,
            "model_version": "",
        }

    def _own(self, cls: str, name: str) -> str:
        return topic(self.fleet, self.name, cls, name)

    def _properties(self, to: str, payload: bytes) -> bytes:
        signature = sign_message(self._key, to, payload)
        pair = b"\x26" + _text(SIGNATURE_PROPERTY) + _text(signature)
        return _encode_varint(len(pair)) + pair

    def _subscribe(self, filters: list[str]) -> None:
        body = struct.pack(">H", next(self._packet_ids)) + b"\0"
        self._write(_packet(0x82, body + b"".join(_text(name) + b"\x01" for name in filters)))

    def _publish(self, to: str, payload: bytes, *, retain: bool = False) -> None:
        body = _text(to) + struct.pack(">H", next(self._packet_ids))
        body += self._properties(to, payload) + payload
        self._write(_packet(0x32 | int(retain), body))

    def _write(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.write(data)


def _text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _packet(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _encode_varint(len(body)) + body


async def _read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return kind, await reader.readexactly(length)
