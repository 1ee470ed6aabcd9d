"""The one MQTT topic tree, of fixed depth: ``edge/v1/{fleet}/{device}/{class}/{name}``.

What a device publishes and what it receives lie in its own subtree, so that one broker pattern
(``edge/v1/%u/#``) is the whole access list. ``_fleet`` in place of a device is for everyone,
read-only but for ``enroll``.
"""

from __future__ import annotations

import re

import msgspec

from edge_contract.errors import ContractError

ROOT = "edge/v1"
EVERYONE = "_fleet"

FROM_DEVICE = frozenset(
    {"state", "status", "telemetry", "telemetry_backfill", "drift", "event", "ask"}
)
"""Classes that only the device publishes. ``ask`` is a question that ``rsp`` answers."""
TO_DEVICE = frozenset({"desired", "cmd", "rsp"})
"""Classes that only the manager publishes."""
CLASSES = FROM_DEVICE | TO_DEVICE | {"blob", "metadata", "enroll", "enrolled"}
"""``blob`` goes both ways: ``ask`` and ``delta-ask`` from the device, ``data``, ``delta`` and
``refused`` to it. ``enroll`` comes from devices, ``enrolled`` answers those that have no
certificate yet."""

CODE_PREFIX = "code."
"""``_fleet/enroll/code.{nonce}``: an ask for a first certificate; its answer goes to
``_fleet/enrolled/{nonce}``. A device's id never holds a dot, so announcements are told apart."""
CA_NAME = "ca"
"""``_fleet/enrolled/ca``: the fleet's CA certificate, retained, checked against the code."""

HEAD_PREFIX = "head."
ROOT_PREFIX = "root."
"""``_fleet/metadata/head.{line}`` and ``_fleet/metadata/root.{N}``. A line's name never holds a
dot, so neither can be taken for ``_fleet/metadata/{line}``."""

_FLEET_OR_DEVICE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


class Topic(msgspec.Struct, frozen=True):
    """A parsed topic. ``device`` is ``_fleet`` for the common subtree."""

    fleet: str
    device: str
    cls: str
    name: str

    def __str__(self) -> str:
        return f"{ROOT}/{self.fleet}/{self.device}/{self.cls}/{self.name}"


def check_id(text: str, *, what: str) -> str:
    """``text`` if it can stand as a fleet or device id.

    Raises:
        ContractError: it cannot.
    """
    if not _FLEET_OR_DEVICE.fullmatch(text):
        raise ContractError(
            f"{what} {text[:80]!r}: expected 1 to 63 lower-case letters, digits and '-',"
            " beginning with a letter or digit"
        )
    return text


def topic(fleet: str, device: str, cls: str, name: str) -> str:
    """The topic of one message.

    Raises:
        ContractError: a part is not of the form.
    """
    check_id(fleet, what="fleet")
    if device != EVERYONE:
        check_id(device, what="device")
    if cls not in CLASSES or not _NAME.fullmatch(name):
        raise ContractError(f"topic class {cls!r} with name {name[:80]!r} is refused")
    return str(Topic(fleet, device, cls, name))


def parse_topic(text: str) -> Topic:
    """The parts of a topic as it came over the wire.

    Raises:
        ContractError: not of our tree.
    """
    parts = text.split("/")
    if len(parts) != 6 or f"{parts[0]}/{parts[1]}" != ROOT:
        raise ContractError(f"topic {text[:160]!r}: expected {ROOT}/fleet/device/class/name")
    _, _, fleet, device, cls, name = parts
    topic(fleet, device, cls, name)
    return Topic(fleet, device, cls, name)


def device_filters(fleet: str, device: str, line: str) -> list[str]:
    """What a device subscribes to on every CONNACK; metadata itself only when it lacks some."""
    own = f"{ROOT}/{check_id(fleet, what='fleet')}/{check_id(device, what='device')}"
    return [
        f"{own}/desired/+",
        f"{own}/cmd/+",
        f"{own}/rsp/+",
        f"{own}/blob/data",
        f"{own}/blob/delta",
        f"{own}/blob/refused",
        metadata_topic(fleet, HEAD_PREFIX + line),
    ]


def metadata_topic(fleet: str, name: str) -> str:
    """Where a line's metadata (``{line}``), its head or a root is retained."""
    return topic(fleet, EVERYONE, "metadata", name)


def broadcast_topic(fleet: str, digest_hex: str) -> str:
    """Where the blocks of one blob go that many devices lack at once."""
    return topic(fleet, EVERYONE, "blob", digest_hex)


def manager_filters(fleet: str) -> list[str]:
    """What the manager subscribes to on every CONNACK."""
    base = f"{ROOT}/{check_id(fleet, what='fleet')}"
    return [
        *(f"{base}/+/{cls}/+" for cls in sorted(FROM_DEVICE)),
        f"{base}/+/blob/ask",
        f"{base}/+/blob/delta-ask",
        f"{base}/+/enroll/+",
    ]
