"""How often the same test data have judged other plans: a test that is asked often enough passes.

A ledger beside the calibration cache, one file a test digest, holds the digests of the plans that
it judged on this machine. It informs and decides nothing: what is missing or damaged is begun anew.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection
from pathlib import Path

from compiler.report.section import Section

PLANS_MAX = 10_000
_DIGEST = re.compile(r"[0-9a-z:]{8,80}")


class Ledger:
    """Plans by test digest.

    Args:
        folder: made at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def judge(self, test_digest: str, plans: Collection[str]) -> int:
        """Note that the data judge ``plans``; return how many other plans they judged before."""
        path = self._folder / f"{test_digest.rpartition(':')[2]}.txt"
        try:
            known = [line for line in path.read_text().split() if _DIGEST.fullmatch(line)]
        except (OSError, UnicodeDecodeError):
            known = []
        new = [plan for plan in dict.fromkeys(plans) if plan not in known]
        if new:
            self._write(path, [*known, *new][-PLANS_MAX:])
        return len(set(known) - set(plans))

    def _write(self, path: Path, plans: list[str]) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
                whole = Path(scratch) / "ledger.txt"
                whole.write_text("\n".join(plans) + "\n")
                whole.replace(path)
        except OSError:
            return  # A full or read-only disk; the build does not depend on it.


def reuse_section(earlier: int) -> Section:
    """The count in the report; never in the bundle, which must not depend on the machine."""
    return Section(
        key="test_reuse",
        title="Test data used before",
        note=(
            f"On this machine {earlier} other plan{'s were' if earlier != 1 else ' was'} judged by"
            " these very test data before. Each look makes it likelier that a plan passes by"
            " chance; the 95 % hold for a first look."
            if earlier
            else "On this machine these test data have judged no other plan."
        ),
        data={"earlier_plans": earlier, "where": "this machine"},
        lines=(f"test data judged {earlier} other plan{'s' if earlier != 1 else ''} before",)
        if earlier
        else (),
    )


def reuse_warnings(earlier: int) -> list[str]:
    """What a reader should know."""
    if not earlier:
        return []
    warning = (
        f"the same test data judged {earlier} other plan{'s' if earlier != 1 else ''} on this"
        " machine before; the 95 % hold for a first look"
    )
    return [warning]
