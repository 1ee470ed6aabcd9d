"""The director: signs what one device is ordered to run, and the manager's live answers."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_contract.codec import encode_json
from edge_contract.desired import DESIRED_TYPE, Desired
from edge_contract.health import HealthSpec
from edge_contract.signing import fingerprint, sign_document, sign_message
from fleet.store.devices import DeviceRow
from fleet.store.orders import OrderRow

EPOCH = 1
"""Raised only by an offline signature, as the last resort against a lost sequence."""
ORDER_LIFE_S = 90 * 86_400.0
"""An order is renewed at half of it (``Orders.renew_due``), so only a dead fleet's expire."""


class Director:
    """Holds the director key.

    Args:
        fleet: whose devices it orders.
        key: loads the key, at the first signature: there is none before the first publish.
    """

    def __init__(self, fleet: str, key: Callable[[], Ed25519PrivateKey]) -> None:
        self._fleet = fleet
        self._load = key
        self._key: Ed25519PrivateKey | None = None

    def order(
        self,
        device: DeviceRow,
        *,
        rollout: str,
        version: str,
        digest: str,
        health: HealthSpec,
        timestamp_version: int,
        now_s: float,
    ) -> OrderRow:
        """A signed order for one device, numbered above all that it or the store has seen.

        Raises:
            FleetError: the director key is missing.
        """
        seq = next_seq(device)
        desired = Desired(
            fleet=self._fleet,
            device=device.device,
            device_key=fingerprint(bytes.fromhex(device.public_key)),
            epoch=EPOCH,
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
        )
        return OrderRow(
            device=device.device,
            seq=seq,
            epoch=EPOCH,
            rollout=rollout,
            line=device.line,
            version=version,
            digest=digest,
            envelope=sign_document(self._signer(), DESIRED_TYPE, encode_json(desired)),
            issued_at_s=now_s,
            expires_at_s=now_s + ORDER_LIFE_S,
        )

    def sign(self, topic: str, payload: bytes) -> str:
        """The signature property of one live message to a device.

        Raises:
            FleetError: the director key is missing.
        """
        return sign_message(self._signer(), topic, payload)

    def _signer(self) -> Ed25519PrivateKey:
        if self._key is None:
            self._key = self._load()
        return self._key


def next_seq(device: DeviceRow) -> int:
    """One above what the store gave out and what the device reported, so that a store restored
    from a backup does not order with numbers that the device has left behind."""
    return max(device.desired_seq, device.reported_seq) + 1
