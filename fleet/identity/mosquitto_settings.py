"""mosquitto's settings for a fleet with certificates, and a check that runs mosquitto on them.

Three listeners at most: devices with certificates (TCP), the same over WebSocket, and strangers
with a code, who may say one thing and hear one answer. Each line says why it is there.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_contract.topics import CA_NAME, CODE_PREFIX, EVERYONE, ROOT
from fleet.broker.mosquitto import MESSAGE_SIZE_LIMIT_BYTES, find_mosquitto
from fleet.errors import FleetError
from fleet.identity.authority import write_public, write_secret
from fleet.identity.certificates import MANAGER, OBSERVER
from fleet.identity.issuers import Issuers

CONFIG = "mosquitto.conf"
DEVICES_ACL = "devices.acl"
WEBSOCKETS_ACL = "websockets.acl"
_CHECK_S = 1.5
_HARMLESS = (
    "does not contain '%c' or '%u'",  # patterns for everybody are meant so
    "should not be run as root",
)

_SETTINGS = """\
# Written by `edge-fleet broker config` for the fleet {fleet}. Write it again instead of editing it.
per_listener_settings true

# 5 k instead of 38 k messages a second without it.
set_tcp_nodelay true
# The default of 1000 drops messages to an offline client after they were acknowledged. Devices
# begin without a session, so what waits is bounded by what they have in flight.
max_queued_messages 10000
max_queued_bytes 268435456
max_inflight_messages 100
message_size_limit {message_size_limit}
# MQTT itself allows 268 MB in one packet.
max_packet_size {max_packet_size}

persistence true
persistence_location {data_dir}/
autosave_interval 30
persistent_client_expiration 14d
{user}
log_dest stderr
log_type error
log_type warning
log_type notice
log_timestamp_format %Y-%m-%dT%H:%M:%S
"""
_WITH_CERTIFICATE = """
# {title}.
listener {port}{host}
{protocol}{tls}
require_certificate true
{revocation}
# The certificate's common name, fleet/device, is the user, and the user is the client id: nobody
# can speak for another device, nor take over its session.
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {directory}/{acl}
"""
_REVOKED_BY_LIST = "crlfile {directory}/crl.pem"
_REVOKED_BY_NAME = """\
# No crlfile: mosquitto 2.0 does not read it for WebSockets when it starts, and with one a reload
# ends the broker (SIGSEGV) once a client has come and gone. Instead the access list shuts revoked
# names out."""
_WITHOUT_CERTIFICATE = """
# Devices that have no certificate yet: they may ask for one, and hear the answer.
listener {port}{host}
{protocol}{tls}
allow_anonymous true
acl_file {directory}/strangers.acl
max_connections 200
"""
_TLS = """certfile {directory}/server.crt.pem
keyfile {directory}/server.key.pem
cafile {directory}/ca.crt.pem
tls_version tlsv1.2"""

_FROM_DEVICE = (
    "state/agent",
    "state/online",
    "status/+",
    "telemetry/+",
    "telemetry_backfill/+",
    "drift/+",
    "event/+",
    "ask/time",
    "blob/ask",
    "blob/delta-ask",
    "enroll/renew",
)
_TO_DEVICE = ("desired/+", "cmd/+", "rsp/+", "blob/data", "blob/delta", "blob/refused")


@dataclass(frozen=True)
class Ports:
    """Where to listen; 0 is for "not at all". ``host`` "" is every interface."""

    mqtt: int = 8883
    enroll: int = 8884
    websocket: int = 0
    enroll_websocket: int = 0
    host: str = ""


def write_settings(
    issuers: Issuers,
    server: Path,
    out: Path,
    ports: Ports,
    *,
    user: str = "",
    locked_out: Sequence[str] = (),
) -> Path:
    """Write everything that mosquitto needs into ``out``.

    Args:
        issuers: CA certificate and revocation list.
        server: directory with ``server.key.pem`` and ``server.crt.pem`` of `edge-fleet ca server`.
        ports: where to listen.
        user: whom mosquitto becomes when root starts it; "" for Debian's ``mosquitto``.
        locked_out: devices whose every key is revoked.

    Raises:
        FleetError: this fleet has no CA or issuer, or a file is missing.
    """
    if not issuers.installed or not issuers.crl_path.exists():
        raise FleetError(
            "this fleet has no CA: there is nothing that a broker could check devices against",
            hint="edge-fleet ca init, on another machine",
            docs="how-to/secure-fleet.md",
        )
    out = out.absolute()
    (out / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, write in (("server.key.pem", write_secret), ("server.crt.pem", write_public)):
        try:
            write(out / name, (server / name).read_bytes())
        except FileNotFoundError as error:
            raise FleetError(
                f"{server / name} is missing",
                hint="where the CA lies: edge-fleet ca server --ca DIR --host NAME --out DIR",
            ) from error
    write_public(out / "ca.crt.pem", issuers.ca_pem)
    write_public(out / "crl.pem", issuers.crl_path.read_bytes())
    write_public(out / DEVICES_ACL, devices_acl(issuers.fleet).encode())
    if ports.websocket:
        write_public(out / WEBSOCKETS_ACL, devices_acl(issuers.fleet, locked_out).encode())
    write_public(out / "strangers.acl", strangers_acl(issuers.fleet).encode())
    write_public(out / CONFIG, _config(issuers.fleet, out, ports, user).encode())
    return out / CONFIG


def write_revocations(issuers: Issuers, crl: Path, locked_out: Sequence[str]) -> None:
    """Write what a broker reads anew: the revocation list and, where the settings have a WebSocket
    listener (``websockets.acl`` lies beside the list), the access list that shuts names out."""
    write_public(crl, issuers.crl_path.read_bytes())
    if (crl.parent / WEBSOCKETS_ACL).exists():
        access = devices_acl(issuers.fleet, locked_out)
        write_public(crl.parent / WEBSOCKETS_ACL, access.encode())


def devices_acl(fleet: str, locked_out: Sequence[str] = ()) -> str:
    """Who may say and hear what, of those with a certificate. ``%u`` is ``fleet/device``.

    Args:
        locked_out: devices that may say and hear nothing, whatever certificate they show; a
            denial goes before every permission.
    """
    everyone = f"{ROOT}/{fleet}/{EVERYONE}"
    lines = [
        "# A device speaks for itself, and cannot order itself anything.",
        *(f"pattern write {ROOT}/%u/{tail}" for tail in _FROM_DEVICE),
        *(f"pattern read {ROOT}/%u/{tail}" for tail in _TO_DEVICE),
        "# For all devices, read-only but for announcements, which their own key signs.",
        f"pattern read {everyone}/metadata/+",
        f"pattern read {everyone}/blob/+",
        f"pattern write {everyone}/enroll/+",
        "",
        f"user {fleet}/{MANAGER}",
        f"topic read {ROOT}/{fleet}/#",
        *(f"topic write {ROOT}/{fleet}/+/{tail}" for tail in _TO_DEVICE),
        "# To clear what removed devices, and devices that may not, left retained.",
        *(f"topic write {ROOT}/{fleet}/+/{tail}" for tail in _FROM_DEVICE),
        f"topic write {everyone}/enroll/+",
        f"topic write {everyone}/metadata/+",
        f"topic write {everyone}/blob/+",
        f"topic write {everyone}/enrolled/+",
        "",
        f"user {fleet}/{OBSERVER}",
        f"topic read {ROOT}/{fleet}/#",
    ]
    for device in locked_out:
        lines += ["", f"user {fleet}/{device}", "topic deny #"]
    return "\n".join(lines) + "\n"


def strangers_acl(fleet: str) -> str:
    """One ask, one answer, the CA certificate. ``%c`` is the client id: a secret of 128 bits."""
    everyone = f"{ROOT}/{fleet}/{EVERYONE}"
    lines = [
        f"topic read {everyone}/enrolled/{CA_NAME}",
        f"pattern write {everyone}/enroll/{CODE_PREFIX}%c",
        f"pattern read {everyone}/enrolled/%c",
    ]
    return "\n".join(lines) + "\n"


def check_settings(config: Path) -> list[str]:
    """Run mosquitto on the settings, on free ports and with a data directory of its own.

    Returns:
        what it complained about; empty when it runs and keeps running.

    Raises:
        FleetError: mosquitto is not installed.
    """
    program = find_mosquitto()
    if program is None:
        raise FleetError("mosquitto is not installed", hint="sudo apt-get install mosquitto")
    with tempfile.TemporaryDirectory(prefix="wherry-broker-check-") as scratch:
        trial = Path(scratch) / CONFIG
        lines: list[str] = []
        for line in config.read_text().splitlines():
            if line.startswith("listener "):
                # Port 0 opens a UNIX socket: no port of this machine is touched.
                line = f"listener 0 {scratch}/{len(lines)}.sock"
            elif line.startswith("persistence_location "):
                line = f"persistence_location {scratch}/"
            lines.append(line)
        trial.write_text("\n".join(lines) + "\n")
        return _complaints([program, "-c", str(trial)])


def _complaints(command: list[str]) -> list[str]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        until_s = time.monotonic() + _CHECK_S
        while process.poll() is None and time.monotonic() < until_s:
            time.sleep(0.05)
        running = process.poll() is None
        process.terminate()
        process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace").splitlines()
    bad = [
        line
        for line in said
        if any(word in line for word in ("rror", "nvalid", "arning"))
        and not any(text in line for text in _HARMLESS)
    ]
    return bad if running else [*(bad or said[-3:]), f"mosquitto ended with {process.returncode}"]


def _config(fleet: str, out: Path, ports: Ports, user: str) -> str:
    text = _SETTINGS.format(
        fleet=fleet,
        message_size_limit=MESSAGE_SIZE_LIMIT_BYTES,
        max_packet_size=2 * MESSAGE_SIZE_LIMIT_BYTES,
        data_dir=out / "data",
        user=f"user {user}\n" if user else "",
    )
    host = f" {ports.host}" if ports.host else ""
    tls = _TLS.format(directory=out)
    by_list = (_REVOKED_BY_LIST.format(directory=out), DEVICES_ACL)
    by_name = (_REVOKED_BY_NAME, WEBSOCKETS_ACL)
    for port, template, protocol, title, (revocation, acl) in (
        (
            ports.mqtt,
            _WITH_CERTIFICATE,
            "mqtt",
            "Devices with a certificate, and the manager.",
            by_list,
        ),
        (ports.websocket, _WITH_CERTIFICATE, "websockets", "The same through a firewall", by_name),
        (ports.enroll, _WITHOUT_CERTIFICATE, "mqtt", "", by_list),
        (ports.enroll_websocket, _WITHOUT_CERTIFICATE, "websockets", "", by_list),
    ):
        if port:
            text += template.format(
                title=title,
                port=port,
                host=host,
                protocol=f"protocol {protocol}\n",
                tls=tls,
                directory=out,
                revocation=revocation,
                acl=acl,
            )
    return text
