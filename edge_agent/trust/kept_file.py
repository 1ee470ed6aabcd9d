"""Reading what the device keeps of what it has seen: missing is one thing, damaged another."""

from __future__ import annotations

from pathlib import Path

from edge_agent.errors import DamagedTrustError


def read_kept(path: Path) -> bytes | None:
    """What was kept; None before the first time.

    Raises:
        DamagedTrustError: it is there and cannot be read: a bad sector, another owner. Taking that
            for a new device would let in what is old.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedTrustError(
            f"cannot read {path}: {error.strerror}; new installs stop, what runs keeps running",
            hint=f"give it to the agent's user; if the disk was damaged and the device is yours,"
            f" remove {path}",
        ) from error
