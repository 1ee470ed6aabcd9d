"""Whether a medium that was accepted before may order once more. Pure: the journal decides."""

from __future__ import annotations

from edge_agent.update.state import UpdateState
from edge_contract.errors import TrustError


def require_repeatable(state: UpdateState, sequence: int, *, again: bool) -> None:
    """Whether the device may act on the medium that it accepted last.

    What failed is not begun again by itself: where something applies every stick that is put in, a
    bad version would be tried for ever. A person may ask for it, while nothing came after it.

    Args:
        state: what the update machine knows.
        sequence: of that medium.
        again: a person says that the cause of its failure is gone.

    Raises:
        TrustError: it may not; the message says what became of it, the hint what to do.
    """
    if state.medium < sequence:
        return  # a power cut came between the two journals, and nothing was begun
    for order in (state.order, state.waiting):
        if order is not None and order.medium == sequence:
            raise _replay(sequence, f"is being carried out: {state.stage.value}", _STATUS)
    ended = state.ended
    newer = state.order or state.waiting
    if newer is not None or ended is None or ended.order.medium != sequence:
        raise _replay(
            sequence,
            "was carried out, and other orders came after it",
            "write a new one: edge-fleet export",
        )
    reason = f": {ended.reason}" if ended.reason else ""
    outcome = f"was carried out: {ended.order.line} {ended.order.version} {ended.phase}{reason}"
    if ended.phase == "committed" and state.active:
        raise _replay(sequence, outcome, _STATUS)
    if not again:
        raise _replay(sequence, outcome, "once the cause is gone: edge-agent apply DIR --again")


_STATUS = "look at it: edge-agent status"


def _replay(sequence: int, what: str, hint: str) -> TrustError:
    return TrustError(f"replay: this medium (sequence {sequence}) {what}", hint=hint)
