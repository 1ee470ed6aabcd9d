"""The state directory: one agent at a time, and a clear word when it cannot be written."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

from edge_agent.errors import AgentError
from edge_agent.update.pointer import BOOT_FILE
from edge_contract.errors import ExitCode
from edge_contract.layout import write_durably

_FULL = (errno.ENOSPC, errno.EDQUOT)


class StateDir:
    """Holds the lock on a state directory until closed.

    Attributes:
        full: what to say of a disk that is full under a version that was installed: that version
            runs all the same; "" where there is room.

    Raises:
        AgentError: another process holds it, or it cannot be made or written (full with nothing
            to run, read-only, wrong owner).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.full = ""
        try:
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
            self._lock = os.open(path / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise AgentError(
                f"another edge-agent (pid {pid}) runs on {path}; two would corrupt its slots",
                hint=f"edge-agent status --state-dir {path}",
            ) from error
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
            raise unwritable(path, error) from error

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
