"""The director: signs what one device is ordered to run, and the manager's live answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_contract.codec import encode_json
from edge_contract.command import COMMAND_TYPE, Command
from edge_contract.configuration import CONFIGURATION_TYPE, Configuration, Value
from edge_contract.desired import DESIRED_TYPE, Desired
from edge_contract.health import HealthSpec
from edge_contract.signed_time import TIME_TYPE, TimeReply
from edge_contract.signing import (
    fingerprint,
    public_bytes,
    sign_document,
    sign_message,
    signers_of,
)
from fleet.store.devices import DeviceRow
from fleet.store.orders import OrderRow

ORDER_LIFE_S = 90 * 86_400.0
"""An order is renewed at half of it (``Orders.renew_due``), so only a dead fleet's expire."""


class _Address(TypedDict):
    """Whom a document is for, and the epoch that it counts in."""

    fleet: str
    device: str
    device_key: str
    epoch: int


class Director:
    """Holds the director key.

    Args:
        fleet: whose devices it orders.
        key: loads the key, at the first signature: there is none before the first publish.
        epoch: reads the epoch that offline keys signed; orders of any other would be refused.
    """

    def __init__(
        self, fleet: str, key: Callable[[], Ed25519PrivateKey], epoch: Callable[[], int]
    ) -> None:
        self._fleet = fleet
        self._load = key
        self._load_epoch = epoch
        self._key: Ed25519PrivateKey | None = None
        self._epoch: int | None = None

    @property
    def epoch(self) -> int:
        """The epoch in force."""
        if self._epoch is None:
            self._epoch = self._load_epoch()
        return self._epoch

    def look_again(self) -> None:
        """The signed list of directors may have changed: read key and epoch anew when needed."""
        self._key, self._epoch = None, None

    def signed(self, order: OrderRow) -> bool:
        """Whether an order is by the key and of the epoch that are in force now.

        Raises:
            FleetError: the director key is missing.
        """
        return self.signed_by_me(order.epoch, order.envelope)

    def signed_by_me(self, epoch: int, envelope: bytes) -> bool:
        """Whether a document is by the key and of the epoch that are in force now.

        Raises:
            FleetError: the director key is missing.
        """
        keyid = fingerprint(public_bytes(self._signer()))
        return epoch == self.epoch and keyid in signers_of(envelope)

    def order(
        self,
        device: DeviceRow,
        *,
        rollout: str,
        version: str,
        digest: str,
        health: HealthSpec,
        window: str,
        timestamp_version: int,
        now_s: float,
    ) -> OrderRow:
        """A signed order for one device, numbered above all that it or the store has seen.

        Raises:
            FleetError: the director key is missing.
        """
        seq = next_seq(device, self.epoch)
        envelope = self._sign(
            DESIRED_TYPE,
            Desired(
                **self._address(device),
                seq=seq,
                issued_at=now_s,
                expires=now_s + ORDER_LIFE_S,
                timestamp_version_min=timestamp_version,
                line=device.line,
                version=version,
                hardware=device.hardware,
                manifest_digest=digest,
                rollout=rollout,
                health=health,
                window=window,
            ),
        )
        return OrderRow(
            device=device.device,
            seq=seq,
            epoch=self.epoch,
            rollout=rollout,
            line=device.line,
            version=version,
            digest=digest,
            envelope=envelope,
            issued_at_s=now_s,
            expires_at_s=now_s + ORDER_LIFE_S,
        )

    def tell_time(self, device: str, nonce: str, now_s: float) -> bytes:
        """The signed answer to a device's question for the time.

        Raises:
            FleetError: the director key is missing.
        """
        reply = TimeReply(fleet=self._fleet, device=device, nonce=nonce, now=now_s)
        return self._sign(TIME_TYPE, reply)

    def command(
        self,
        device: DeviceRow,
        name: str,
        arguments: dict[str, str | float | bool],
        *,
        nonce: str,
        now_s: float,
        life_s: float,
    ) -> bytes:
        """A signed command for one device, which counts once and until ``now_s + life_s``.

        Raises:
            FleetError: the director key is missing.
        """
        return self._sign(
            COMMAND_TYPE,
            Command(
                **self._address(device),
                nonce=nonce,
                issued_at=now_s,
                expires=now_s + life_s,
                name=name,
                arguments=arguments,
            ),
        )

    def configuration(
        self,
        device: DeviceRow,
        settings: dict[str, Value],
        *,
        seq: int,
        nonce: str,
        now_s: float,
    ) -> bytes:
        """A signed configuration for one device; ``seq`` is above all that it has seen.

        Raises:
            FleetError: the director key is missing.
        """
        return self._sign(
            CONFIGURATION_TYPE,
            Configuration(
                **self._address(device),
                seq=seq,
                nonce=nonce,
                issued_at=now_s,
                expires=now_s + ORDER_LIFE_S,
                settings=settings,
            ),
        )

    def sign(self, topic: str, payload: bytes) -> str:
        """The signature property of one live message to a device.

        Raises:
            FleetError: the director key is missing.
        """
        return sign_message(self._signer(), topic, payload)

    def _address(self, device: DeviceRow) -> _Address:
        return _Address(
            fleet=self._fleet,
            device=device.device,
            device_key=fingerprint(bytes.fromhex(device.public_key)),
            epoch=self.epoch,
        )

    def _sign(self, kind: str, document: Desired | Command | Configuration | TimeReply) -> bytes:
        return sign_document(self._signer(), kind, encode_json(document))

    def _signer(self) -> Ed25519PrivateKey:
        if self._key is None:
            self._key = self._load()
        return self._key


def next_seq(device: DeviceRow, epoch: int) -> int:
    """One above what the store gave out and what the device reported in this epoch, so that a store
    restored from a backup does not order with numbers that the device has left behind."""
    reported = device.reported_seq if device.reported_epoch == epoch else 0
    return max(device.desired_seq, reported) + 1
