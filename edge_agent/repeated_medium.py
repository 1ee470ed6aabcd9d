"""Whether a medium that was accepted before may order once more. Pure: the journal decides."""

from __future__ import annotations

from edge_agent.trust.order import refused
from edge_agent.update.state import UpdateState


def require_repeatable(state: UpdateState, sequence: int) -> None:
    """Whether the device may act on the medium that it accepted last.

    Args:
        state: what the update machine knows.
        sequence: of that medium.

    Raises:
        TrustError: its order was begun. It is not begun again by itself: what failed would fail
            with every look at the stick.
    """
    if state.medium < sequence:
        return  # a power cut came between the two journals, and nothing was begun
    raise refused(f"replay: this medium (sequence {sequence}) was carried out already")
