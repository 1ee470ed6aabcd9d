"""Who gives way when the spool is full. Pure: sizes in, an order of measures out.

A class within its quota is left alone as long as another is over: a flood of events costs events,
not the resolution of telemetry.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from edge_agent.telemetry.errors import SpoolError

CLASSES: tuple[str, ...] = ("telemetry", "drift", "event", "status")
"""What the spool keeps, each with a sequence of its own: see docs/protocols/mqtt.md."""


class Relief(NamedTuple):
    """One way to free space."""

    kind: Literal["merge", "drop"]
    cls: str


def check_quotas(quotas: Mapping[str, float]) -> dict[str, float]:
    """``quotas`` if every class has a share of the cap.

    Raises:
        SpoolError: a class is missing or unknown, a share is not above 0, or they exceed 1.
    """
    if set(quotas) != set(CLASSES):
        raise SpoolError(
            f"spool quotas: expected a share for each of {', '.join(CLASSES)},"
            f" got {', '.join(map(str, quotas)) or 'none'}"
        )
    for cls, share in quotas.items():
        if not (isinstance(share, int | float) and math.isfinite(share) and share > 0):
            raise SpoolError(f"spool quota of {cls}: expected a share above 0, got {share!r}")
    total = sum(quotas.values())
    if total > 1 + 1e-9:
        raise SpoolError(f"spool quotas: expected shares that sum to at most 1, got {total:g}")
    return dict(quotas)


def furthest_over(used_bytes: Mapping[str, int], shares: Mapping[str, float]) -> list[str]:
    """Classes that hold anything, the one furthest over its share first."""
    holding = [cls for cls in CLASSES if used_bytes.get(cls, 0) > 0]
    return sorted(holding, key=lambda cls: used_bytes[cls] / shares[cls], reverse=True)


def relief_order(
    used_bytes: Mapping[str, int],
    shares: Mapping[str, float],
    capacity_bytes: int,
    mergeable: Collection[str],
) -> list[Relief]:
    """What to try, in order, until something frees space.

    First merge in the mergeable classes that are over their quota, then drop from the class
    furthest over. Page overhead lets the spool fill up while every class is within its quota by
    bytes; then the one nearest to it counts as over.
    """
    order = furthest_over(used_bytes, shares)
    over = [
        cls
        for rank, cls in enumerate(order)
        if rank == 0 or used_bytes[cls] > shares[cls] * capacity_bytes
    ]
    merges = [Relief("merge", cls) for cls in over if cls in mergeable]
    return merges + [Relief("drop", cls) for cls in order]
