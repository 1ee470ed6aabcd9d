"""The root of every wherry error, and the exit codes all three tools share.

Each package derives one root from ``WherryError`` (``ContractError`` here, ``CompileError``,
``FleetError``, ``AgentError``, ``HookError``, ``RuntimeModelError``). A message says what was
expected, what came and where; ``hint`` is the next command or step.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes, the same for ``edge-compile``, ``edge-fleet`` and ``edge-agent``."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    AUTH = 4
    """Authentication or signature."""
    GATE = 5
    """A gate was not passed: failed, or insufficient data (the JSON says which)."""
    ABORTED = 6
    """The rollout was aborted."""
    NETWORK = 7
    """Network or time-out."""


class WherryError(Exception):
    """An error with what its reader needs next.

    Args:
        message: what was expected, what came, and where.
        hint: what to do next, a command where there is one.
        exit_code: what the process should exit with if this ends it.
        docs: a path below ``docs/`` that explains more.
    """

    exit_code: ExitCode = ExitCode.FAILURE

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        exit_code: ExitCode | None = None,
        docs: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.docs = docs
        if exit_code is not None:
            self.exit_code = exit_code

    def as_json(self) -> dict[str, object]:
        """The shape that every ``--json`` error has: ``{error, code, hint, docs}``."""
        return {
            "error": self.message,
            "code": int(self.exit_code),
            "hint": self.hint,
            "docs": self.docs,
        }


class ContractError(WherryError):
    """A document, a message or a bundle does not have the agreed form."""


class TrustError(ContractError):
    """A signature, a digest or a version that the rules of trust refuse."""

    exit_code = ExitCode.AUTH
