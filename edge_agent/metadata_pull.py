"""Asking the broker for metadata that this device lacks, and for nothing that it holds.

A retained head names the newest root and the digest of the newest set (ADR 0032). It is not signed:
it can make this device ask, or not ask, which whoever writes it could bring about by sending or
withholding the metadata. What comes is for the order desk to judge. Owned by the loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edge_agent.orders import OrderDesk
from edge_agent.refusal import Refusal
from edge_agent.transfer.budget import ASK_BYTES, ByteBudget, message_bytes
from edge_contract.errors import TrustError
from edge_contract.metadata import MetadataHead, decode_metadata_head
from edge_contract.topics import HEAD_PREFIX, ROOT_PREFIX, metadata_topic

RETRY_FIRST_S = 60.0
RETRY_MAX_S = 3600.0
"""Between two fetches for the same head when one brought nothing new: doubled from first to max."""
VAIN_SHARE = 0.1
"""Of a metered link's day: what fetches that brought nothing new may cost before no other follows
until something new has come, or until the day has moved on."""
DAY_S = 86_400.0
ROOT_WAIT_S = 30.0
"""A root that has not come by then is taken not to exist, as a TUF client takes a missing file: the
set is tried under the root that is trusted."""


class MetadataPull:
    """Which topic to subscribe to next.

    Args:
        fleet, line: whose metadata.
        desk: verifies what comes, and knows what is held.
        budget: counts what is asked, and says whether the link is metered.
        subscribe, unsubscribe: take one topic; only called while there is a connection.
    """

    def __init__(
        self,
        fleet: str,
        line: str,
        desk: OrderDesk,
        budget: ByteBudget,
        *,
        subscribe: Callable[[str], None],
        unsubscribe: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._line = line
        self._desk = desk
        self._budget = budget
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._head: MetadataHead | None = None
        """Of this connection."""
        self._tried: MetadataHead | None = None
        """What the pause belongs to: the last head of any connection."""
        self._asked = ""
        self._asked_s = 0.0
        self._no_root = False
        self._complete = False
        self._due_s = 0.0
        self._pause_s = RETRY_FIRST_S
        self._fruitless = False
        self._vain: deque[tuple[float, int]] = deque()
        """(when, bytes) of fetches that brought nothing new. Forgotten with a restart, which no
        broker can bring about."""

    def disconnected(self, now_s: float, lost_bytes: int = 0) -> None:
        """The head will come again; an answer under way is lost.

        Args:
            now_s: monotonic seconds.
            lost_bytes: of what had come of a message when it was cut off.
        """
        if self._asked:
            self._in_vain(now_s, lost_bytes, pause=self._budget.metered)
        self._head = None
        self._asked = ""
        self._no_root = False

    def inbound(self, name: str, payload: bytes, now_s: float) -> Refusal | None:
        """A message on ``_fleet/metadata/{name}``.

        Returns:
            a refusal to log.

        Raises:
            ContractError, TrustError: a head that is malformed, or of another line.
        """
        if name == HEAD_PREFIX + self._line:
            self._heard(payload, now_s)
            refusal = None
        else:
            refusal = self._judged(name, payload, now_s)
        self._complete = False
        self.tick(now_s)
        return refusal

    def tick(self, now_s: float) -> None:
        """Ask for what is lacking, one topic at a time: each root is checked by the one before."""
        if self._asked.startswith(ROOT_PREFIX) and now_s >= self._asked_s + ROOT_WAIT_S:
            self._no_root = True
            self._answered()
        if self._head is None or self._asked or self._complete or now_s < self._due_s:
            return
        name = self._lacking(self._head)
        if not name:
            self._complete = True
        elif not self._fruitless or self._may_try_again(now_s):
            self._asked, self._asked_s = name, now_s
            self._desk.expect_metadata(now_s)
            self._budget.spend(ASK_BYTES)
            self._subscribe(self._topic(name))

    def _heard(self, payload: bytes, now_s: float) -> None:
        self._head = None
        if not payload:
            return  # the topic is being cleared
        head = decode_metadata_head(payload, where=self._topic(HEAD_PREFIX + self._line))
        if head.line != self._line:
            raise TrustError(f"head of line {head.line!r}, this device runs {self._line!r}")
        self._head = head
        if head != self._tried:
            self._tried = head
            self._no_root = False
            self._due_s, self._pause_s = now_s, RETRY_FIRST_S

    def _judged(self, name: str, payload: bytes, now_s: float) -> Refusal | None:
        asked = name == self._asked
        if asked:
            self._answered()
        is_root = name.startswith(ROOT_PREFIX)
        before = self._desk.held_metadata
        try:
            return self._desk.root(payload) if is_root else self._desk.metadata(payload)
        finally:  # a full disk is fruitless as well
            if self._desk.held_metadata != before:
                self._fruitless = False
                self._pause_s = RETRY_FIRST_S
                # After a set that is not the head's, that set's own head is under way.
                self._due_s = now_s if is_root else now_s + RETRY_FIRST_S
            elif asked:
                self._no_root = False
                self._in_vain(now_s, message_bytes(self._topic(name), len(payload)))

    def _lacking(self, head: MetadataHead) -> str:
        held = self._desk.held_metadata
        if held is None:
            return ""
        if held.root_version < head.root_version and not self._no_root:
            return f"{ROOT_PREFIX}{held.root_version + 1}"
        return self._line if held.digest != head.digest else ""

    def _answered(self) -> None:
        self._unsubscribe(self._topic(self._asked))
        self._asked = ""

    def _in_vain(self, now_s: float, size_bytes: int, *, pause: bool = True) -> None:
        self._fruitless = True
        self._vain.append((now_s, size_bytes + ASK_BYTES))
        if pause:
            self._due_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, RETRY_MAX_S)

    def _may_try_again(self, now_s: float) -> bool:
        while self._vain and self._vain[0][0] <= now_s - DAY_S:
            self._vain.popleft()
        if not self._budget.metered:
            self._vain.clear()
        return sum(size for _, size in self._vain) <= VAIN_SHARE * self._budget.limit_bytes

    def _topic(self, name: str) -> str:
        return metadata_topic(self._fleet, name)
