"""What the fleet wants of the device's settings, and what holds. Owned by the loop.

The device's own file has the last word: it may forbid all of it (``trust.remote_config``), and of
limits that guard the device the stricter value holds. Nothing here is needed for inference: where
a configuration is refused, or what was kept of one is damaged, the settings stay as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from edge_agent.errors import DamagedTrustError
from edge_agent.reports import printable
from edge_agent.trust.configuration import (
    KeptConfiguration,
    load_configuration,
    save_configuration,
)
from edge_contract.configuration import SETTINGS, Value, effective
from edge_contract.errors import ContractError

GRACE_S = 10.0
"""How long a configuration waits for the metadata that covers it, as orders do."""
AGAIN_S = 60.0
"""Between two looks at one that was refused: newer metadata may yet cover it."""
FORBIDDEN = "this device's own file forbids remote configuration (trust.remote_config = false)"

Accept = Callable[[bytes, KeptConfiguration | None], KeptConfiguration]
Tell = Callable[[str, Literal["info", "warning"], str], None]


class RemoteConfig:
    """Verifies, keeps, then applies, and says what holds and why.

    Args:
        path: where the configuration in force is kept.
        own: the device's own value of every setting that it has one of.
        apply: for every setting, what makes a value count, at once and without failing.
        allowed: whether the device's own file lets the fleet change anything.
        accept: verifies an envelope against what was accepted last (``OrderDesk.configuration``).
        tell: reports an event: name, severity, sentence.
        changed: called when what ``facts`` says has changed.
    """

    def __init__(
        self,
        path: Path,
        own: Mapping[str, Value],
        apply: Mapping[str, Callable[[Value], None]],
        *,
        allowed: bool,
        accept: Accept,
        tell: Tell,
        changed: Callable[[], None],
    ) -> None:
        self._path = path
        self._own = dict(own)
        self._apply = apply
        self._allowed = allowed
        self._accept = accept
        self._tell = tell
        self._changed = changed
        self._kept: KeptConfiguration | None = None
        self._damage: DamagedTrustError | None = None
        self._waiting: bytes | None = None
        self._since_s = 0.0
        self._look_s = 0.0
        self._complained_of = ""
        self.refused = "" if allowed else FORBIDDEN
        """Why the newest configuration does not count; "" where it does."""
        self._holds = dict(own)
        self._limited: list[str] = []
        try:
            self._kept = load_configuration(path)
        except DamagedTrustError as error:
            self._damage, self.refused = error, error.message

    def start(self) -> None:
        """Apply what was in force before the restart."""
        if self._damage is not None:
            self._tell("configuration-damaged", "warning", self._damage.message)
        self._put_in_force()

    def received(self, envelope: bytes, now_s: float) -> None:
        """A configuration arrived; ``tick`` says what becomes of it. ``now_s``: monotonic."""
        self._waiting = envelope
        self._since_s = self._look_s = now_s

    def tick(self, now_s: float) -> None:
        """Take on what waits.

        Raises:
            OSError: the disk refuses to keep it; nothing has changed, the next call tries again.
        """
        if self._waiting is None or now_s < self._look_s:
            return
        try:
            accepted = self._accepted(self._waiting)
        except ContractError as error:
            if now_s - self._since_s >= GRACE_S:
                self._look_s = now_s + AGAIN_S
                self._complain(self._waiting, error.message)
            return
        before, repeat = self._holds, accepted is self._kept
        if not repeat:
            # Kept before it is applied, so that no older one counts, whatever happens next.
            save_configuration(self._path, accepted)
            self._kept = accepted
        self._waiting, self.refused = None, ""
        self._put_in_force()
        if not repeat:
            self._tell("configuration", "info", self._sentence(before))
        self._changed()

    def facts(self) -> dict[str, Any]:
        """The fields of ``AgentState`` that tell of settings."""
        kept = self._kept if self._allowed else None
        return {
            "config_epoch": kept.epoch if kept else 0,
            "config_seq": kept.seq if kept else 0,
            "config_refused": printable(self.refused),
            "settings": dict(self._holds),
            "settings_limited": list(self._limited),
        }

    def status(self) -> list[dict[str, Any]]:
        """For ``edge-agent status``: every setting that holds, its value, where it comes from, and
        what the fleet wants of it (None: nothing)."""
        wanted = self._wanted()
        return [
            {
                "name": name,
                "value": self._holds[name],
                "from": self._origin(name, wanted),
                "wanted": wanted.get(name),
            }
            for name in SETTINGS
            if name in self._holds
        ]

    def _accepted(self, envelope: bytes) -> KeptConfiguration:
        if not self._allowed:
            raise ContractError(FORBIDDEN)
        if self._damage is not None:
            raise self._damage
        return self._accept(envelope, self._kept)

    def _put_in_force(self) -> None:
        holds, self._limited = effective(self._own, self._wanted())
        before, self._holds = self._holds, holds
        for name, value in holds.items():
            if value != before.get(name):
                self._apply[name](value)

    def _wanted(self) -> Mapping[str, Value]:
        return self._kept.settings if self._kept is not None and self._allowed else {}

    def _origin(self, name: str, wanted: Mapping[str, Value]) -> str:
        if name in self._limited:
            return "device, stricter than the fleet's"
        return "fleet" if name in wanted else "device"

    def _complain(self, envelope: bytes, reason: str) -> None:
        document = hashlib.sha256(envelope).hexdigest()
        if document == self._complained_of and reason == self.refused:
            return
        self._complained_of, self.refused = document, reason
        self._tell("configuration-refused", "warning", reason)
        self._changed()

    def _sentence(self, before: Mapping[str, Value]) -> str:
        assert self._kept is not None
        changes = [
            f"{name} {before.get(name, 'none')} -> {value}"
            for name, value in self._holds.items()
            if value != before.get(name)
        ]
        limited = f"; the device's own stricter value holds for {', '.join(self._limited)}"
        return (
            f"configuration {self._kept.epoch}.{self._kept.seq} is in force:"
            f" {', '.join(changes) or 'nothing changes'}{limited if self._limited else ''}"
        )
