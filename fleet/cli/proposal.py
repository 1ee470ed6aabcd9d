"""What all commands share that propose a change of keys, or of what they stand for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from fleet.cli.repository_options import event_option, open_repository, tell_outcome, who_option
from fleet.cli.terminal import json_option, state_option
from fleet.manager.state_dir import StateDir

if TYPE_CHECKING:
    from fleet.repository.archive import Outcome
    from fleet.repository.ceremony import Ceremony

P = ParamSpec("P")


@dataclass(frozen=True)
class Proposal:
    """Who proposes, where, and how to tell what became of it.

    event_path: where to write the signing event; None: where the repository keeps it.
    """

    state: StateDir
    who: str
    event_path: Path | None
    as_json: bool

    def ceremony(self) -> Ceremony:
        """The ceremony of the repository on disk."""
        from fleet.repository.ceremony import Ceremony

        return Ceremony(open_repository(self.state), self.who)

    def tell(self, outcome: Outcome, done: str) -> int:
        """Print ``done``, or who has to sign first; the exit code."""
        return tell_outcome(outcome, done, event_path=self.event_path, as_json=self.as_json)


def proposing(command: Callable[Concatenate[Proposal, P], int]) -> Callable[..., int]:
    """Give a command ``--event``, ``--who``, ``--state`` and ``--json``, as one ``Proposal``."""

    @event_option
    @who_option
    @state_option
    @json_option
    @functools.wraps(command)
    def asked(
        *, event_path: Path | None, who: str, state: StateDir, as_json: bool, **rest: Any
    ) -> int:
        return command(Proposal(state, who, event_path, as_json), **rest)  # type: ignore[call-arg]

    return asked
