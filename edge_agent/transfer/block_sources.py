"""Where blocks are asked for: the web server while it answers as it should, the fleet otherwise."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.transfer.http_source import HttpBlock, HttpSource
from edge_contract.messages import BlobAsk


class BlockSources:
    """Owned by the loop.

    Args:
        http: the web server; None where there is none.
        fleet: asks the manager; False while offline.
        say: hears why the web server was left.
    """

    def __init__(
        self,
        http: HttpSource | None,
        fleet: Callable[[BlobAsk], bool],
        say: Callable[[str], None],
    ) -> None:
        self._http = http
        self._fleet = fleet
        self._say = say

    def ask(self, ask: BlobAsk) -> bool:
        """Send a question for blocks; False while it cannot be sent."""
        if self._http is not None and self._http.usable:
            return self._http.ask(ask)
        return self._fleet(ask)

    def leave_http(self, reason: str) -> bool:
        """The web server failed, or what it sent was not what was approved; whether that changes
        where the next question goes."""
        if self._http is None or not self._http.usable:
            return False
        self._say(f"{reason}; MQTT takes over")
        self._http.failed()
        return True

    def counts(self, block: HttpBlock, size_bytes: int | None) -> bool:
        """Whether a block of the web server is to be taken.

        Args:
            size_bytes: of the blob, as it was approved; None where it is not wanted (any more).
        """
        if self._http is None or not self._http.usable:
            return False  # sent before it was left: it must not spoil what now comes from elsewhere
        return size_bytes in (None, block.block.size_bytes)

    def stop(self) -> None:
        """End the web server's thread."""
        if self._http is not None:
            self._http.stop()
