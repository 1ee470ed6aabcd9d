"""Deliberate breaks: each takes one promise out of the code, and the suite must notice.

``python tests/breaks.py`` copies the checkout, breaks one thing at a time (``break_list.py``), runs
the tests that hold it, and fails when a break goes unnoticed. ``--evidence FILE`` writes the table
of invariant, break and the test that caught it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.break_list import BREAKS, Break

ROOT = Path(__file__).parents[1]
IGNORED = shutil.ignore_patterns(
    ".git", ".venv*", "demo-out", "*.egg-info", ".*_cache", "__pycache__"
)
EVIDENCE = """# Deliberate breaks, and what caught them

Written by `python tests/breaks.py --evidence docs/evidence/breaks.md`. Each row takes one promise
out of a copy of the code (`tests/break_list.py`) and runs the tests that hold it; the first that
failed is named.

"""


def caught(item: Break) -> str:
    """The first test that fails on the broken copy; empty if none does.

    Raises:
        SystemExit: the text to break is no longer there.
    """
    with tempfile.TemporaryDirectory(prefix="wherry-break-") as scratch:
        copy = Path(scratch) / "copy"
        shutil.copytree(ROOT, copy, ignore=IGNORED)
        path = copy / item.file
        text = path.read_text()
        if text.count(item.old) != 1:
            sys.exit(f"{item.file}: expected exactly once: {item.old!r}")
        path.write_text(text.replace(item.old, item.new))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", item.tests],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
    # Only a test that ran and failed is a catch: a copy that does not even import is none.
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    if done.returncode != 1 or not failed:
        return ""
    return failed[0].removeprefix("FAILED ").split(" - ")[0]


def main() -> int:
    """Try the breaks; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2, help="breaks tried at a time (default: 2)")
    parser.add_argument("--only", default="", metavar="TEXT", help="breaks whose words hold TEXT")
    parser.add_argument("--evidence", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args()
    chosen = [item for item in BREAKS if options.only in f"{item.invariant}: {item.what}"]
    rows: list[str] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for item, test in zip(chosen, pool.map(caught, chosen), strict=True):
            print(f"{'caught  ' if test else 'SURVIVED'}  [{item.invariant}] {item.what}")
            print(f"          {test}", flush=True)
            rows.append(
                f"| {item.invariant} | {item.what} | {f'`{test}`' if test else 'nothing'} |"
            )
    survived = sum(row.endswith(" nothing |") for row in rows)
    summary = f"{len(rows) - survived} of {len(rows)} breaks caught"
    print(summary)
    if options.evidence:
        table = ["| invariant | break | caught by |", "|---|---|---|", *rows]
        options.evidence.write_text(EVIDENCE + f"{summary}.\n\n" + "\n".join(table) + "\n")
    return int(survived > 0 or not chosen)


if __name__ == "__main__":
    sys.exit(main())
