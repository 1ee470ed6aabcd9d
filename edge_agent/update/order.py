"""The order that an update carries out: what the verified ``desired`` says, and no more."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_contract.desired import Desired
from edge_contract.digest import check_digest
from edge_contract.health import HealthSpec, tighten

LOCAL = "local"
"""The ``rollout`` under which an installation from a file is reported."""

Origin = Literal["fleet", "file", "medium"]
"""Who ordered it: the fleet's director over the network, or a person who stood at the device."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One order for this device. It has passed every check of trust before it becomes one.

    epoch, seq: of the fleet's own orders as they were signed, strictly growing. An order by hand
        takes the next number after all that the device has taken up; the fleet hears of it, and
        goes on above it, but it bars none of the fleet's (ADR 0030).
    digest: of the bundle's manifest.
    health: already tightened by the device's own policy.
    deadline_ts: unix s of the fleet's clock by which the whole must have ended (0: none).
    window: UTC hours in which it may be installed ("" for always), beside the device's own.
    origin: who ordered it.
    medium: sequence of the medium that brought it (0: none did).
    """

    epoch: int
    seq: int
    digest: str
    line: str
    version: str
    rollout: str = ""
    health: HealthSpec = HealthSpec()
    deadline_ts: float = 0.0
    window: str = ""
    origin: Origin = "fleet"
    medium: int = 0

    def __post_init__(self) -> None:
        check_digest(self.digest, where="order.digest")

    @property
    def key(self) -> tuple[int, int]:
        """Its number."""
        return self.epoch, self.seq

    @property
    def by_hand(self) -> bool:
        """Whether a person at the device ordered it, and not the fleet."""
        return self.origin != "fleet"

    def sentence(self) -> str:
        """How a reason names this order."""
        return f"order {self.epoch}.{self.seq} ({self.line} {self.version})"


def order_from(desired: Desired, own: HealthSpec) -> Order:
    """The order behind a verified ``desired``, under the device's own health policy.

    Args:
        desired: signature, addressee, line and hardware are checked already.
        own: the device's policy, which can only tighten what the fleet asks.
    """
    return Order(
        epoch=desired.epoch,
        seq=desired.seq,
        digest=desired.manifest_digest,
        line=desired.line,
        version=desired.version,
        rollout=desired.rollout,
        health=tighten(desired.health, own),
        deadline_ts=desired.deadline_ts,
        window=desired.window,
    )
