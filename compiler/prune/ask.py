"""What a user may ask of pruning, in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from compiler.errors import CompileError
from edge_contract.errors import ExitCode
from edge_contract.profile import DeviceProfile

_SHARE = re.compile(r"0?\.[0-9]{1,6}")


@dataclass(frozen=True)
class PruneAsk:
    """``--prune`` and ``--sparsity``.

    amount: share of the MACs that is to go, above 0 and below 1; ``None`` where it is off or auto.
    auto: as much goes as the selection data allow.
    sparse: 2 of every 4 weights become zero.
    """

    amount: float | None = None
    auto: bool = False
    sparse: bool = False

    @property
    def channels(self) -> bool:
        """Whether channels may go."""
        return self.auto or self.amount is not None

    @property
    def words(self) -> str:
        """``--prune`` in one spelling: ``off``, ``auto`` or the share."""
        return "auto" if self.auto else "off" if self.amount is None else f"{self.amount:g}"

    @property
    def sparsity(self) -> str:
        """``--sparsity`` in one spelling."""
        return "2:4" if self.sparse else "off"


def read_ask(prune: str, sparsity: str) -> PruneAsk:
    """Read both options; a share that is not one is refused and never reads as "off".

    Raises:
        CompileError: with the exit code for wrong usage.
    """
    if sparsity not in ("off", "2:4"):
        raise CompileError(
            f"--sparsity {sparsity[:40]!r}: expected '2:4' or 'off'", exit_code=ExitCode.USAGE
        )
    sparse = sparsity == "2:4"
    if prune in ("off", "auto"):
        return PruneAsk(auto=prune == "auto", sparse=sparse)
    amount = float(prune) if _SHARE.fullmatch(prune) else 0.0
    if not 0 < amount < 1:
        raise CompileError(
            f"--prune {prune[:40]!r}: expected 'off', 'auto', or the share of the"
            " multiply-accumulates that is to go, above 0 and below 1",
            hint="--prune 0.2",
            exit_code=ExitCode.USAGE,
        )
    return PruneAsk(amount=amount, sparse=sparse)


def check_targets(ask: PruneAsk, profiles: Iterable[DeviceProfile]) -> None:
    """Refuse 2:4 zeros for a target that does not gain from them.

    Raises:
        CompileError: with the exit code for wrong usage.
    """
    if not ask.sparse:
        return
    without = [
        profile.id
        for profile in profiles
        if profile.accelerator is None or not profile.accelerator.sparsity
    ]
    if without:
        raise CompileError(
            f"--sparsity 2:4: {', '.join(without)} does not gain from 2 zeros in every 4 weights;"
            " only tensor cores of NVIDIA's Ampere and newer do",
            hint="leave --sparsity out, or build for a Jetson Orin alone",
            docs="explanation/pruning.md",
            exit_code=ExitCode.USAGE,
        )
