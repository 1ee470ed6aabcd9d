"""The state directory: one agent at a time, nobody else's to change, and a clear word when it
cannot be written.

As OpenSSH does with its own files (``StrictModes``): what others could have changed is refused with
the command that puts it right, never mended in silence. What decides which model runs stops the
start; ``trust/`` stops only new installs (``OrderDesk``), and the device's key only the link.
Below a directory that others cannot enter nobody could have changed anything: loose modes there, as
earlier releases made them under a umask of 002, stop nothing and are tightened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from edge_agent.errors import AgentError
from edge_agent.update.pointer import BOOT_FILE
from edge_contract.errors import ExitCode
from edge_contract.layout import write_durably

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TAKES_NOTHING = (errno.EROFS, errno.EIO)
_DECIDES = (BOOT_FILE, "slots", "slots/A", "slots/B", "update", "update/journal")
"""Below the state directory: what says which model runs."""


class StateDir:
    """Holds the lock on a state directory until closed.

    Args:
        path: made where it is missing.
        for_owner: root works in the directory of a service, to which it is handed over in the end.

    Attributes:
        full: what to say of a disk that is full under a version that was installed: that version
            runs all the same; "" where there is room.
        read_only: the same of a disk that takes no write at all (EROFS, EIO): nothing is kept, and
            nothing new is installed; "" where it does.

    Raises:
        AgentError: another process holds it, it cannot be made or written (full with nothing to
            run, read-only), or others own it or may change it.
    """

    def __init__(self, path: Path, *, for_owner: bool = False) -> None:
        self.path = path
        self.full = self.read_only = ""
        try:
            make_private(path, for_owner=for_owner)
            self._lock = os.open(path / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            self._lock = self._run_all_the_same(error)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise AgentError(
                f"another edge-agent (pid {pid}) runs on {path}; two would corrupt its slots",
                hint=f"edge-agent status --state-dir {path}",
            ) from error
        if self.read_only:
            return
        try:
            mine = f"{os.getpid()}\n".encode()
            os.ftruncate(self._lock, os.pwrite(self._lock, mine, 0))
            # A full disk shows here, before anything depends on a write.
            write_durably(path / "writable", b"ok\n")
        except OSError as error:
            if error.errno in _FULL and (path / BOOT_FILE).exists():
                self.full = (
                    f"{unwritable(path, error).message}; what is installed runs all the same"
                )
                return
            os.close(self._lock)
            self._lock = self._run_all_the_same(error)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _run_all_the_same(self, error: OSError) -> int:
        """The lock of a disk that takes no write, under a version that was installed."""
        refusal = unwritable(self.path, error)
        if error.errno not in _TAKES_NOTHING or not (self.path / BOOT_FILE).exists():
            raise refusal from error
        try:
            lock = os.open(self.path / "agent.lock", os.O_RDONLY)
        except OSError:
            raise refusal from error
        self.read_only = (
            f"{refusal.message}; what is installed runs all the same, nothing new is installed, and"
            " telemetry is kept in memory alone"
        )
        return lock

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    def __enter__(self) -> StateDir:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def make_private(path: Path, *, for_owner: bool = False) -> None:
    """Make the state directory, or close one that is there to other readers.

    Raises:
        AgentError: others own it or could have changed what lies in it.
        OSError: it cannot be made or looked at.
    """
    # What this process makes from here on is nobody else's to write, whatever it was started by.
    os.umask(os.umask(0o022) | 0o022)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    doubt = doubt_about_state(path, for_owner=for_owner)
    if doubt is not None:
        raise AgentError(doubt.text, hint=doubt.hint)
    if not (for_owner or any(path.iterdir())) and path.stat().st_uid != os.geteuid():
        # Root in a container, on an empty directory of a user: else the next start would refuse it.
        os.chown(path, os.geteuid(), -1)
    if _closed(path):
        _tighten(path)
    elif any(_loose(place) for place in _trust(path)):
        return  # closed now, the next start would take what others could have changed for safe
    path.chmod(0o700)


def _closed(path: Path) -> bool:
    """Whether nobody but its owner can reach what lies in this directory."""
    return not path.stat().st_mode & 0o011


def _loose(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o022)
    except OSError:
        return False  # missing, or on a bad sector: whoever reads it will say so


def _trust(path: Path) -> tuple[Path, ...]:
    trust = path / "trust"
    try:
        return (trust, *trust.iterdir())
    except OSError:
        return ()


def _tighten(path: Path) -> None:
    for place in (*(path / name for name in _DECIDES), *_trust(path)):
        if _loose(place):
            with contextlib.suppress(PermissionError):  # root's
                place.chmod(stat.S_IMODE(place.stat().st_mode) & ~0o022)


class Doubt(NamedTuple):
    """Why something may not be what the agent wrote, and what to do about it."""

    text: str
    hint: str


def doubt_about_state(path: Path, *, for_owner: bool) -> Doubt | None:
    """The first doubt about what says which model runs; None for none, as in an empty directory.

    Raises:
        OSError: it cannot be looked at.
    """
    if not any(path.iterdir()):
        return None
    owners = {os.geteuid(), path.stat().st_uid} if for_owner else {os.geteuid()}
    closed = _closed(path)
    places = (path, *(path / name for name in _DECIDES))
    doubts = (doubt_about(place, owners, mend=path, closed=closed) for place in places)
    return next((doubt for doubt in doubts if doubt is not None), None)


def doubt_about(path: Path, owners: set[int], *, mend: Path, closed: bool = False) -> Doubt | None:
    """Whether others could have changed what lies here; None where they could not.

    Args:
        path: a file or directory; a missing one gives no doubt.
        owners: accounts that may own it, beside root.
        mend: the directory that the advice is about.
        closed: it lies where others cannot come, whatever its mode.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    advice = "if nobody else can have changed it: {}; else remove it and install anew"
    if found.st_uid not in owners | {0}:
        mine = os.geteuid()
        text = f"{path} belongs to user {found.st_uid}, not to the agent's (user {mine})"
        return Doubt(text, advice.format(f"sudo chown -R {mine} {mend}"))
    if found.st_mode & 0o022 and not closed:
        mode = stat.S_IMODE(found.st_mode)
        text = f"{path} may be changed by others (mode {mode:04o}): expected at most 0755"
        return Doubt(text, advice.format(f"chmod -R go-w {mend}"))
    return None


def is_locked(path: Path) -> bool:
    """Whether an agent runs on a state directory; False as well where that cannot be seen."""
    try:
        lock = os.open(path / "agent.lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def unwritable(path: Path, error: OSError) -> AgentError:
    """The one clear error for a state directory that cannot be written."""
    hints = {
        errno.ENOSPC: f"free some space on its file system (df -h {path})",
        errno.EDQUOT: f"free some space or raise the quota of {path}",
        errno.EROFS: "mount a writable data partition there, or set device.state_dir to one",
        errno.EACCES: f"give it to the agent's user: chown $(id -u) {path}",
        errno.EPERM: f"give it to the agent's user: chown $(id -u) {path}",
    }
    return AgentError(
        f"cannot write the state directory {path}: {error.strerror}",
        hint=hints.get(error.errno or 0, "set device.state_dir to a writable directory"),
        exit_code=ExitCode.FAILURE,
    )
