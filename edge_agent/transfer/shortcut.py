"""Asks the fleet for deltas before anything is pulled whole. Owned by the loop.

For each wanted blob of some size the device names the blobs in its slots that may serve as a base.
The manager answers with a delta to pull, with "none", or with "wait, it is being made". Whoever
does not answer in time is not waited for: whole blobs always come.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from edge_contract.digest import check_digest
from edge_contract.errors import ContractError
from edge_contract.manifest import Descriptor
from edge_contract.messages import DeltaAsk, DeltaOffer

WORTH_BYTES = 8 * 1024
"""Smaller blobs come whole: the question would cost as much."""
SHARE_MAX = 0.7
"""A delta that is larger than this share of the blob is not worth it."""
ANSWER_S = 10.0
"""A manager that has not answered by then is asked no more."""
MAKING_MAX_S = 120.0
"""How long "it is being made" counts."""
BASES_MAX = 4
DELTA_MEDIA_TYPE = "application/vnd.wherry.delta.v1"


class _Question(msgspec.Struct):
    wanted: Descriptor
    have: list[str]
    since_s: float
    asked_s: float | None = None
    again_s: float = 0.0
    heard: bool = False


class Shortcut(msgspec.Struct, frozen=True):
    """A delta to pull instead of ``wanted``. ``base``: a blob that this device holds."""

    wanted: Descriptor
    base: str
    delta: Descriptor


class DeltaDesk:
    """Open questions and what they came to. No time passes while they cannot be sent.

    Args:
        ask: sends a question; False while it cannot be sent.
        ready: called once every question is answered or given up, with the shortcuts found.
    """

    def __init__(
        self, ask: Callable[[DeltaAsk], bool], ready: Callable[[list[Shortcut]], None]
    ) -> None:
        self._ask = ask
        self._ready = ready
        self._open: dict[str, _Question] = {}
        self._found: list[Shortcut] = []

    @property
    def waiting(self) -> bool:
        """Whether answers are still out."""
        return bool(self._open)

    def begin(self, wanted: list[tuple[Descriptor, list[str]]], now_s: float) -> None:
        """Ask for a way to each blob from one of the bases beside it."""
        self.cancel()
        for descriptor, have in wanted:
            self._open[descriptor.digest] = _Question(descriptor, have[:BASES_MAX], now_s)
        self.tick(now_s, online=True)

    def cancel(self) -> None:
        """Forget all questions; late answers are ignored."""
        self._open.clear()
        self._found.clear()

    def offered(self, offer: DeltaOffer, now_s: float) -> None:
        """An answer whose signature was checked."""
        question = self._open.get(offer.digest)
        if question is None:
            return
        if offer.wait_s > 0:
            question.heard = True
            question.again_s = now_s + min(offer.wait_s, ANSWER_S)
            return
        if offer.delta and _is_sound(offer, question):
            delta = Descriptor(
                media_type=DELTA_MEDIA_TYPE, digest=offer.delta, size=offer.size_bytes
            )
            self._found.append(Shortcut(question.wanted, offer.base, delta))
        del self._open[offer.digest]
        self._finish()

    def refused(self, digest: str) -> None:
        """The manager does not serve this blob; pulling it whole will say why."""
        if self._open.pop(digest, None) is not None:
            self._finish()

    def tick(self, now_s: float, *, online: bool) -> None:
        """Ask, ask again, give up. Offline, no time passes: nothing could be pulled either."""
        if not self._open:
            return
        for question in list(self._open.values()):
            if not online:
                question.since_s = now_s
                question.asked_s = None
                continue
            limit_s = MAKING_MAX_S if question.heard else ANSWER_S
            again = question.heard and now_s >= question.again_s > 0
            if question.asked_s is not None and now_s - question.since_s >= limit_s:
                del self._open[question.wanted.digest]
            elif question.asked_s is None or again:
                sent = self._ask(DeltaAsk(digest=question.wanted.digest, have=question.have))
                question.asked_s = now_s if sent else None
                if not sent:
                    # Held back by a byte budget, say: where a question cannot go, no blob can, and
                    # the blob whole tomorrow would cost more than its delta.
                    question.since_s = now_s
                question.again_s = now_s + ANSWER_S if question.heard else 0.0
        self._finish()

    def _finish(self) -> None:
        if not self._open:
            found, self._found = self._found, []
            self._ready(found)


def _is_sound(offer: DeltaOffer, question: _Question) -> bool:
    try:
        check_digest(offer.delta, where="blob/delta")
    except ContractError:
        return False
    fits = 0 < offer.size_bytes <= SHARE_MAX * question.wanted.size
    return fits and offer.base in question.have
