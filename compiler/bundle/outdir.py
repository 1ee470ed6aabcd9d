"""The output directory: ``bundle/`` and the reports, replaced together at the end.

A build works in a hidden directory beside them and touches nothing else until it is done. What
lies there afterwards belongs together: reports are taken away before the bundle is changed and
put in place after it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compiler.errors import OutputError
from edge_contract.layout import fsync_dir, write_durably

BUNDLE = "bundle"
REPORTS = ("report.json", "report.html", "sbom.json")


def check_output(out: Path) -> None:
    """Refuse, before any work, an output directory that could not be replaced at the end.

    Raises:
        OutputError: ``out`` is a file or cannot be written, or its ``bundle`` is not a bundle
            of ours.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"--out {out} is a file; expected a directory")
    bundle = out / BUNDLE
    if bundle.is_symlink() or (bundle.exists() and not (bundle / "oci-layout").is_file()):
        raise OutputError(
            f"{bundle} exists and is not a bundle, so it is not replaced",
            hint="give another --out, or move it away",
        )
    # Tried, not asked: permissions say nothing of a read-only mount, and nothing at all to root.
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    try:
        Path(tempfile.mkdtemp(prefix=".edge-compile-", dir=nearest)).rmdir()
    except OSError as error:
        raise OutputError(
            f"cannot write to --out {out}: {error.strerror}",
            hint="give another --out, in a directory that you may write to",
        ) from error


class Staging:
    """The hidden directory of one build."""

    def __init__(self, out: Path, scratch: Path) -> None:
        self._out = out
        self._scratch = scratch
        self.bundle = scratch / BUNDLE
        """Where the new bundle is written; nowhere when the gate did not pass."""

    def publish(self, reports: dict[str, bytes]) -> bool:
        """Put the reports, and the bundle if one was staged, in place of the old ones.

        Returns whether an older bundle was taken away without a new one in its place.
        """
        for name, data in reports.items():
            write_durably(self._scratch / name, data)
        target, retired = self._out / BUNDLE, self._scratch / "retired"
        # Another build may end at the same moment; both together would leave parts of each.
        with _alone(self._out):
            return self._replace(target, retired, reports)

    def _replace(self, target: Path, retired: Path, reports: dict[str, bytes]) -> bool:
        had_one = target.exists()
        for name in REPORTS:
            (self._out / name).unlink(missing_ok=True)
        try:
            if had_one:
                target.rename(retired)
            if self.bundle.exists():
                self.bundle.rename(target)
        except BaseException:
            if retired.exists() and not target.exists():
                retired.rename(target)
            raise
        for name in reports:
            (self._scratch / name).replace(self._out / name)
        fsync_dir(self._out)
        return had_one and not target.exists()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the directory's lock, which ends with the process at the latest; waits for others."""
    directory = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


@contextmanager
def staging(out: Path) -> Iterator[Staging]:
    """A hidden directory in ``out``, gone when the block ends, however it ends.

    Raises:
        OutputError: ``out`` cannot be made or written.
    """
    created = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".edge-compile-", dir=out))
    except OSError as error:
        raise OutputError(f"cannot write to --out {out}: {error.strerror}") from error
    try:
        yield Staging(out, scratch)
    except OSError as error:
        raise OutputError(
            f"cannot write the result to {out}: {error.strerror}",
            hint="free some space or give another --out, then run the same command again",
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if created:
            with contextlib.suppress(OSError):
                out.rmdir()
