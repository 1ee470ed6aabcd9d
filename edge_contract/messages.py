"""Every MQTT payload that is not telemetry, a drift sketch or TUF metadata.

Control messages are flat JSON with a unit in every numeric name and always ``ts``, ``seq``,
``boot_id``, ``model_version``, ``schema``. ``ts`` is the device's wall clock in unix seconds, to
be corrected by the fleet; ``seq`` grows by one per (boot_id, class).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Phase = Literal[
    "accepted",
    "downloading",
    "staged",
    "self_test",
    "trial",
    "committed",
    "failed",
    "rolled_back",
    "refused",
    "held",
]
"""Steps of an update as the fleet sees them. ``failed``: slot A never left; ``rolled_back``: the
new version ran in trial and the device returned; ``refused``: not even begun (trust, hardware)."""

TERMINAL_PHASES: frozenset[str] = frozenset({"committed", "failed", "rolled_back", "refused"})


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that every message from a device carries."""

    schema: Literal[1] = 1
    ts: float
    seq: int
    boot_id: str
    model_version: str


class AgentState(Header, frozen=True, kw_only=True):
    """``state/agent``, retained: what the device is and runs now.

    update_waits_for: why the update under way waits, a sentence ("": it does not).
    update_opens_ts: when the maintenance windows that it waits for are open next, unix seconds; 0
        where it waits for none, or does not know the time.
    clock_known: whether it knows the time of day; without it no window is ever open for it.
    config_epoch, config_seq: number of the configuration in force (0: none of the fleet's).
    config_refused: why the newest configuration was refused ("": it was not).
    settings: what holds now, by name (``edge_contract.configuration``); the unit is in the name.
    settings_limited: those where the device's own, stricter value holds against the fleet's.
    """

    connection_id: str
    agent_version: str
    hardware: str
    device_key: str
    line: str
    active_digest: str
    fallback_digest: str
    active_slot: str
    update_phase: str
    desired_epoch: int
    desired_seq: int
    held: bool
    spool_used_bytes: int
    spool_dropped_count: int
    update_waits_for: str = ""
    update_opens_ts: float = 0.0
    clock_known: bool = True
    config_epoch: int = 0
    config_seq: int = 0
    config_refused: str = ""
    settings: dict[str, str | float] = {}
    settings_limited: list[str] = []


class Online(Header, frozen=True, kw_only=True):
    """``state/online``, retained; the will is the same with ``online`` false.

    A will is written at connect time: one whose ``connection_id`` is not the newest is stale.
    """

    connection_id: str
    online: bool


class UpdateStatus(Header, frozen=True, kw_only=True):
    """``status/update``: one step of one update."""

    rollout: str
    desired_seq: int
    digest: str
    version: str
    phase: Phase
    reason: str = ""
    progress_percent: float = 0.0


class Event(Header, frozen=True, kw_only=True):
    """``event/{name}``: something a person may want to know, drift alarms among them."""

    name: str
    severity: Literal["info", "warning", "alarm"]
    text: str
    detail: dict[str, str | float | list[str | float]] = {}


class DriftWindow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """``drift/summary``, packed MessagePack: one window's sketch (``edge_contract.sketch``)."""

    schema: int
    ts: float
    seq_first: int
    seq: int
    boot_id: str
    model_version: str
    window_s: float
    sketch: bytes


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """``rsp/ack``: the fleet has *committed* these records; the device may trim them.

    ranges: closed intervals of ``seq``.
    """

    schema: Literal[1] = 1
    cls: str
    boot_id: str
    ranges: list[tuple[int, int]]


class Enrol(msgspec.Struct, frozen=True, kw_only=True):
    """``_fleet/enroll/{device}``, signed by the very key that it announces (proof of possession).

    public: the raw Ed25519 public key, hex. The manager pins the first key that it sees.
    """

    schema: Literal[1] = 1
    device: str
    hardware: str
    line: str
    public: str
    agent_version: str


class EnrolAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``rsp/enrol``: whether this key is the device's pinned one.

    renew: by the fleet's clock two thirds of the certificate's life are over. Only a hint to ask
    for a new one: a device whose clock is lost cannot know by itself.
    """

    schema: Literal[1] = 1
    accepted: bool
    reason: str = ""
    renew: bool = False


class CertificateAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for a certificate of the key that signed ``csr`` (PEM, PKCS #10).

    ``_fleet/enroll/code.{nonce}``: signed (``wherry-sig``) by the key that is derived from the
    one-time code named ``code``, or, where ``code`` is "", by the device's pinned key: a device
    whose certificate expired while it was away. ``{device}/enroll/renew``: by the pinned key.
    """

    schema: Literal[1] = 1
    device: str
    csr: str
    code: str = ""
    hardware: str = ""
    line: str = ""
    agent_version: str = ""


class CertificateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``_fleet/enrolled/{nonce}``, ``{device}/rsp/certificate``: the chain (PEM, device first).

    It proves itself: it must chain to the CA whose fingerprint stood in the code, and carry the
    device's own name and key.
    """

    schema: Literal[1] = 1
    accepted: bool
    reason: str = ""
    chain: str = ""


class RecordRefused(msgspec.Struct, frozen=True, kw_only=True):
    """``rsp/refused``: the fleet will never accept these records; the device sets them aside.

    ranges: closed intervals of ``seq``.
    """

    schema: Literal[1] = 1
    cls: str
    boot_id: str
    ranges: list[tuple[int, int]]
    reason: str


class BlobAsk(msgspec.Struct, frozen=True, kw_only=True):
    """``blob/ask``: send me these blocks of this blob.

    missing: closed ranges of block numbers; the bitmap on the device's disk as intervals.
    more: beside what was asked for before; without it this question replaces earlier ones.
    listening: the device hears ``_fleet/blob/{hex of the digest}``, where what many lack is sent.
    """

    schema: Literal[1] = 1
    digest: str
    block_bytes: int
    missing: list[tuple[int, int]]
    more: bool = False
    listening: bool = False


class BlobBlock(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """``blob/data``, MessagePack at QoS 0: one block. What is lost is asked for again."""

    digest: str
    offset_bytes: int
    """Where it belongs; with blocks of changing sizes a number would not say."""
    size_bytes: int
    """Of the whole blob."""
    data: bytes


class BlobRefused(msgspec.Struct, frozen=True, kw_only=True):
    """``blob/refused``: the manager has no such blob, or not for this device."""

    schema: Literal[1] = 1
    digest: str
    reason: str


class DeltaAsk(msgspec.Struct, frozen=True, kw_only=True):
    """``blob/delta-ask``: is there a short way to ``digest`` from one of the blobs that I hold?

    have: digests, the likeliest base first.
    """

    schema: Literal[1] = 1
    digest: str
    have: list[str]


class DeltaOffer(msgspec.Struct, frozen=True, kw_only=True):
    """``blob/delta``: pull ``delta`` like any blob and apply it to ``base``.

    delta: its digest; "" where there is none that is worth it.
    size_bytes: of the delta.
    wait_s: above 0 while it is being made: ask again after so long.
    """

    schema: Literal[1] = 1
    digest: str
    base: str = ""
    delta: str = ""
    size_bytes: int = 0
    wait_s: float = 0.0
