"""Retained messages that nobody may leave: a broker keeps them for ever, and limits nobody.

Of what devices say only their two states are retained. Whatever else a rogue device, or a stranger
with a new client id for each message, leaves on the broker is cleared as it is seen: live, because
the manager subscribes with "retain as published" (MQTT 5, 3.8.3.1), and after it was away.
"""

from __future__ import annotations

from collections.abc import Iterable

from paho.mqtt.subscribeoptions import SubscribeOptions

_KEPT = (("state", "agent"), ("state", "online"))


def is_litter(topic: str) -> bool:
    """Whether a retained message on this topic, which may be anything, is to be cleared."""
    return tuple(topic.split("/")[4:]) not in _KEPT


def with_options(filters: Iterable[str]) -> list[tuple[str, SubscribeOptions]]:
    """What to subscribe to at QoS 1, and how. States come without "retain as published": there a
    retained message is one that is told of later, and no proof that the device is there."""
    return [
        (name, SubscribeOptions(qos=1, retainAsPublished=name.split("/")[4:5] != ["state"]))
        for name in filters
    ]
