"""``edge-fleet subscribe``: what goes over the wire, decoded, one line a message."""

from __future__ import annotations

import json
import queue
import secrets
import ssl
from typing import Any

import click

from edge_contract.errors import ContractError, ExitCode
from fleet.cli.terminal import json_option, say, state_option
from fleet.errors import FleetError
from fleet.manager.broker_address import BrokerAddress, parse_broker_address
from fleet.manager.state_dir import StateDir

_CONNECT_S = 10.0


@click.command()
@click.argument("topic_filter", metavar="FILTER", default="")
@click.option(
    "--broker",
    default="",
    help="mqtt://host:port. [default: the running manager's]",
)
@click.option("--count", type=int, default=0, help="End after that many messages (0: never).")
@click.option("--timeout-s", type=float, default=0.0, help="End after that long (0: never).")
@state_option
@json_option
def subscribe(
    topic_filter: str, broker: str, count: int, timeout_s: float, state: StateDir, as_json: bool
) -> int:
    """Print messages as they pass, with their payloads decoded.

    FILTER is an MQTT topic filter; without one it is everything of this fleet but blob blocks.
    With --json each line is an object: topic, fleet, device, class, name, retained, payload.
    """
    if broker:
        address, fleet = parse_broker_address(broker), "+"
    else:
        running, _ = state.running()
        address, fleet = parse_broker_address(running.broker), running.fleet
    skip_blocks = not topic_filter
    wanted = topic_filter or f"edge/v1/{fleet}/#"
    tls = None
    if address.tls:
        from fleet.identity.certificates import OBSERVER
        from fleet.identity.issuers import Issuers

        tls = Issuers(state.identity, state.existing()).tls_context(OBSERVER)
    return _listen(
        address,
        wanted,
        tls,
        skip_blocks=skip_blocks,
        count=count,
        timeout_s=timeout_s,
        as_json=as_json,
    )


def _listen(
    address: BrokerAddress,
    wanted: str,
    tls: ssl.SSLContext | None,
    *,
    skip_blocks: bool,
    count: int,
    timeout_s: float,
    as_json: bool,
) -> int:
    import time

    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    messages: queue.SimpleQueue[mqtt.MQTTMessage | str] = queue.SimpleQueue()
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"subscribe-{secrets.token_hex(4)}",
        protocol=mqtt.MQTTv5,
        transport="websockets" if address.websocket else "tcp",
    )
    if address.websocket:
        client.ws_set_options(path=address.path)
    if tls is not None:
        client.tls_set_context(tls)
    client.on_connect = lambda c, *_: c.subscribe(wanted, 1)
    client.on_subscribe = lambda c, u, mid, reasons, p: messages.put(str(reasons[0]))
    client.on_message = lambda c, u, message: messages.put(message)
    client.connect_timeout = _CONNECT_S
    try:
        client.connect(address.host, address.port)
    except OSError as error:
        raise FleetError(
            f"no broker answers at {address}: {error}",
            hint="edge-fleet doctor",
            exit_code=ExitCode.NETWORK,
        ) from error
    client.loop_start()
    until_s = time.monotonic() + timeout_s if timeout_s else None
    printed = 0
    try:
        while not count or printed < count:
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            item = messages.get(timeout=left_s)
            if isinstance(item, str):
                say(f"subscribed to {wanted} at {address}: {item}")
                continue
            line = _line(item)
            if skip_blocks and (line["class"], line["name"]) == ("blob", "data"):
                continue
            printed += 1
            text = f"{line['topic']}{' (retained)' if line['retained'] else ''} "
            payload = json.dumps(line["payload"])
            click.echo(json.dumps(line) if as_json else text + payload)
    except queue.Empty:
        return ExitCode.NETWORK if count else ExitCode.OK
    finally:
        client.disconnect()
        client.loop_stop()
    return ExitCode.OK


def _line(message: Any) -> dict[str, Any]:
    parts = [*message.topic.split("/"), *[""] * 6][:6]
    _, _, fleet, device, cls, name = parts
    payload = bytes(message.payload)
    try:
        value = _decoded(cls, name, payload)
    except ContractError as error:
        value = {"undecodable": error.message, "size_bytes": len(payload)}
    return {
        "topic": message.topic,
        "fleet": fleet,
        "device": device,
        "class": cls,
        "name": name,
        "retained": bool(message.retain),
        "payload": value,
    }


def _decoded(cls: str, name: str, payload: bytes) -> Any:
    """The payload for people: packed and signed documents opened, bulk left out. Not verified."""
    import msgspec

    from edge_contract.codec import decode_msgpack
    from edge_contract.messages import BlobBlock, DriftWindow
    from edge_contract.sketch import DriftSketch

    if not payload:
        return None
    if cls == "drift":
        window = decode_msgpack(payload, DriftWindow, what="drift window")
        value = {n: getattr(window, n) for n in window.__struct_fields__ if n != "sketch"}
        return {**value, "sketch": _sketch(DriftSketch.decode(window.sketch))}
    if (cls, name) == ("blob", "data"):
        block = decode_msgpack(payload, BlobBlock, what="blob block")
        value = {"digest": block.digest, "offset_bytes": block.offset_bytes}
        return {**value, "blob_bytes": block.size_bytes, "data_bytes": len(block.data)}
    try:
        document = msgspec.json.decode(payload)
        if cls == "desired":
            return msgspec.json.decode(msgspec.convert(document["payload"], bytes, strict=False))
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError) as error:
        raise ContractError(f"not the agreed JSON: {error}") from error
    return document


def _sketch(sketch: Any) -> dict[str, Any]:
    return {
        "edges_digest": sketch.edges_digest,
        "n": sketch.n,
        "features": [
            {"counts": list(feature.counts), "nan_count": feature.nan_count}
            for feature in sketch.features
        ],
    }
