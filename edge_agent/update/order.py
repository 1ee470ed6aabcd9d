"""The order that an update carries out: what the verified ``desired`` says, and no more."""

from __future__ import annotations

import msgspec

from edge_contract.desired import Desired
from edge_contract.digest import check_digest
from edge_contract.health import HealthSpec, tighten

LOCAL = "local"
"""The ``rollout`` of an order that came from a file, not from a fleet."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One order for this device. It has passed every check of trust before it becomes one.

    epoch, seq: strictly growing; an order whose pair does not grow is not taken up.
    digest: of the bundle's manifest.
    health: already tightened by the device's own policy.
    deadline_ts: unix s of the fleet's clock by which the whole must have ended (0: none).
    window: UTC hours in which it may be installed ("" for always), beside the device's own.
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

    def __post_init__(self) -> None:
        check_digest(self.digest, where="order.digest")

    @property
    def key(self) -> tuple[int, int]:
        """What makes one order newer than another."""
        return self.epoch, self.seq

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
