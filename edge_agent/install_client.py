"""The client that waits for an installation, and the order made for it. Owned by the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from edge_agent.api import Request
from edge_agent.errors import AgentError
from edge_agent.transfer.fetch import BundleFetcher
from edge_agent.update.order import Order
from edge_agent.update.state import Stage, UpdateState
from edge_contract.errors import ExitCode, WherryError
from edge_contract.messages import TERMINAL_PHASES, Phase


class InstallClient:
    """One at a time: the next one is turned away until this one has its answer, or gave up.

    Args:
        fetcher: whose blob store takes what is installed.
        state: the update machine's state.
    """

    def __init__(self, fetcher: BundleFetcher, state: Callable[[], UpdateState]) -> None:
        self._fetcher = fetcher
        self._state = state
        self._request: Request | None = None
        self._order: Order | None = None

    def come(self, request: Request, *, busy: str) -> None:
        """A client asks.

        Args:
            request: its call.
            busy: what to say where another one waits.

        Raises:
            AgentError: another one waits.
        """
        if self._request is not None and not self._request.given_up:
            raise AgentError(busy)
        self._request, self._order = request, None

    def waits(self, request: Request) -> bool:
        """Whether it is this one's turn; else it gave up, and another one has taken its place."""
        return request is self._request

    def ordered(self, order: Order) -> None:
        """``order`` is about to be given to the update machine for this client."""
        self._order = order

    def hears(self, order: Order, phase: Phase) -> bool:
        """Whether a step that the update machine reports is one of this client's order.

        Until that order has ended, another one for the same version is only accepted where it takes
        its place, whatever its number is: from there the client hears of that one.
        """
        if self._request is None or self._order is None:
            return False
        if phase == "accepted" and order.digest == self._order.digest:
            self._order = order
        return order == self._order

    def tell(self, phase: Phase, text: str, **more: Any) -> None:
        """Pass a step on; at the last one, with ``more``, the client has its answer."""
        if phase not in TERMINAL_PHASES:
            if self._request is not None:
                self._request.say(phase=phase, text=text)
            return
        body = {"phase": phase, "text": text, **more}
        if phase != "committed":
            body |= {"error": text, "code": int(ExitCode.FAILURE)}
        self._finish(body)

    def refuse(self, error: WherryError | OSError) -> None:
        """Say why nothing is installed, and keep nothing of what nobody ordered."""
        self.clean_at_rest()
        if isinstance(error, OSError):
            # Without an answer the client would wait for ever, and the next one be turned away.
            error = AgentError(f"the state directory refuses: {error}")
        self._finish(error.as_json())

    def clean_at_rest(self) -> None:
        """Empty the blob store, unless an update is under way or waits."""
        state = self._state()
        if state.stage is Stage.IDLE and state.waiting is None:
            with contextlib.suppress(OSError):
                self._fetcher.clean()

    def _finish(self, body: dict[str, Any]) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.finish(**body)
