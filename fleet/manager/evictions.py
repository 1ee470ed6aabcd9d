"""Ends the connections that revoked devices still have.

A broker checks certificates when a connection is made. mosquitto keeps one whose certificate is
revoked afterwards for as long as it stands, and has no command that ends it. But it gives a session
to whoever connected last under its client id, which is the certificate's name. So the manager
connects once under the name of each device that is locked out, with a certificate of minutes that
it issues to itself, and hangs up: the device's own connection is closed by that (MQTT 5, 3.1.4-3),
and the revocation list, which the broker must have read before, lets it make no other.

One way in is left then: a TLS handshake finished before the list was read, and no CONNECT sent yet.
mosquitto ends such a connection after 90 s, so everything is done again after ``AGAIN_AFTER_S``.
"""

from __future__ import annotations

import logging
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion

from edge_contract.errors import WherryError
from fleet.errors import FleetError
from fleet.identity.authority import private_pem, write_secret
from fleet.identity.issuers import Issuers
from fleet.manager.broker_address import BrokerAddress

AGAIN_AFTER_S = 100.0
"""mosquitto waits one and a half times the default keep-alive of 60 s for a CONNECT."""
_LIFE_S = 600.0
_CONNECT_S = 5.0
_WAIT_S = 20.0
"""How long ``evict`` waits for the first round before it goes on without its caller."""

_log = logging.getLogger(__name__)


class Evictions:
    """Takes sessions over, on a thread of its own; one round after the other.

    Args:
        address: the broker.
        issuers: make the certificates.
        locked_out: reads the names; called on the thread.
        wall_s: unix seconds.
        again_after_s: from one round to the one that catches who was half-way in.
    """

    def __init__(
        self,
        address: BrokerAddress,
        issuers: Issuers,
        locked_out: Callable[[], list[str]],
        wall_s: Callable[[], float],
        again_after_s: float = AGAIN_AFTER_S,
    ) -> None:
        self._address = address
        self._issuers = issuers
        self._locked_out = locked_out
        self._wall_s = wall_s
        self._again_after_s = again_after_s
        self._rounds = threading.Lock()
        self._stopping = threading.Event()

    def evict(self) -> list[str]:
        """Cut whoever is locked out, now and once more later.

        Returns:
            the names that were taken over within ``_WAIT_S``.

        Raises:
            FleetError: the broker is reached without TLS, or does not let the manager in as them.
        """
        if not (self._address.tls and self._issuers.installed):
            raise FleetError(
                f"{self._address} has no TLS, so no connection there has a certificate to revoke",
                hint="restart the broker to end every connection",
            )
        done: list[str] = []
        failures: list[Exception] = []
        first = threading.Event()
        threading.Thread(
            target=self._work, args=(done, failures, first), name="evictions", daemon=True
        ).start()
        first.wait(_WAIT_S)
        if failures:
            raise FleetError(
                f"connections of revoked devices may still stand: {failures[0]}",
                hint="restart the broker: that ends every connection",
            ) from failures[0]
        return list(done)

    def stop(self) -> None:
        """Begin no further round."""
        self._stopping.set()

    def _work(self, done: list[str], failures: list[Exception], first: threading.Event) -> None:
        try:
            self._round(done)
        except (WherryError, OSError) as error:
            _log.warning("connections of revoked devices may still stand: %s", error)
            failures.append(error)
            return
        finally:
            first.set()
        if not done or self._stopping.wait(self._again_after_s):
            return
        try:
            self._round([])
        except (WherryError, OSError) as error:
            _log.warning("connections of revoked devices may still stand: %s", error)

    def _round(self, done: list[str]) -> None:
        with self._rounds:
            for device in self._locked_out():
                if self._stopping.is_set():
                    return
                take_over(self._address, self._context(device), self._issuers.fleet, device)
                done.append(device)

    def _context(self, device: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        _, chain = self._issuers.sign(
            device, key.public_key(), now_s=self._wall_s(), life_s=_LIFE_S
        )
        with tempfile.TemporaryDirectory() as scratch:  # ssl takes files alone
            path = Path(scratch) / "own.pem"
            write_secret(path, private_pem(key) + chain.encode())
            return self._issuers.context(path)


def take_over(address: BrokerAddress, context: ssl.SSLContext, fleet: str, device: str) -> None:
    """Connect in a device's name and hang up.

    Raises:
        FleetError: the broker does not let us.
        OSError: no connection.
    """
    answers: list[Any] = []
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        # What mosquitto makes of any client id; what others must be told.
        client_id=f"{fleet}/{device}",
        protocol=mqtt.MQTTv5,
        transport="websockets" if address.websocket else "tcp",
    )
    if address.websocket:
        client.ws_set_options(path=address.path)
    client.tls_set_context(context)
    client.connect_timeout = _CONNECT_S
    client.on_connect = lambda _c, _u, _f, reason, _p: answers.append(reason)
    client.connect(address.host, address.port, clean_start=True)
    _wait_for(client, answers)
    client.disconnect()
    client.loop(0.1)
    if not answers or answers[0].is_failure:
        said = str(answers[0]) if answers else "no answer"
        raise FleetError(f"the broker does not let the manager end {device}'s connection: {said}")


def _wait_for(client: mqtt.Client, answers: Sequence[Any]) -> None:
    until_s = time.monotonic() + _CONNECT_S
    while not answers and time.monotonic() < until_s:
        if client.loop(0.1) != mqtt.MQTT_ERR_SUCCESS:
            return
