"""An outsider on the wire: writes down every message of the fleet, one JSON line each.

It uses paho and msgspec only, so it sees what any subscriber sees. The audit counts repeated
deliveries and orders from this file, not from the product's own counters.
"""

from __future__ import annotations

import argparse
import base64
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def facts(cls: str, payload: bytes) -> dict[str, Any]:
    """What the audit needs of one payload; empty where there is nothing."""
    if cls == "drift":
        _, ts, seq_first, seq, boot_id, *_ = msgspec.msgpack.decode(payload)
        return {"record_ts": ts, "seq_first": seq_first, "seq": seq, "boot_id": boot_id}
    if cls in ("telemetry", "telemetry_backfill", "event", "status"):
        body = json.loads(payload)
        return {
            "record_ts": body["ts"],
            "seq_first": body.get("seq_first", body["seq"]),
            "seq": body["seq"],
            "boot_id": body["boot_id"],
        }
    if cls == "desired" and payload:
        return {
            "digest": json.loads(base64.b64decode(json.loads(payload)["payload"]))[
                "manifest_digest"
            ]
        }
    return {}


def main() -> None:
    """Subscribe until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out = arguments.out.open("a", buffering=1)

    def connected(client: mqtt.Client, *_: Any) -> None:
        client.subscribe("edge/v1/#", 1)

    def heard(client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        _, _, _, device, cls, name = message.topic.split("/")
        if cls == "blob":
            return
        line = {
            "heard_ts": time.time(),
            "device": device,
            "class": cls,
            "name": name,
            "retained": message.retain,
            "size_bytes": len(message.payload),
            **facts(cls, bytes(message.payload)),
        }
        out.write(json.dumps(line) + "\n")

    client = mqtt.Client(CallbackAPIVersion.VERSION2, "wire-log", protocol=mqtt.MQTTv5)
    client.on_connect = connected
    client.on_message = heard
    client.reconnect_delay_set(1, 1)
    client.connect_async("127.0.0.1", arguments.port, keepalive=10)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    client.loop_forever(retry_first_connection=True)


if __name__ == "__main__":
    main()
