"""Where trust on this device begins: the root file of its owner, and what was kept of it.

The kept anchor is the trusted state; the file only begins it, so a file that is gone takes nothing
away. A file that says something else stops new installs until its owner has settled it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import AgentError, DamagedTrustError
from edge_agent.trust.root_file import is_root
from edge_agent.trust.verifier import TrustStore
from edge_contract.errors import ExitCode, TrustError

_STOPS = "new installs stop, what runs keeps running"


@dataclass(frozen=True)
class Anchor:
    """What verification begins with.

    root: its bytes; None where nothing sound is known, which ``damage`` then says.
    note: what the owner should hear of a file that is gone; "" where it is there.
    damage: why nothing new may be installed; None where all is well.
    """

    root: bytes | None
    note: str = ""
    damage: DamagedTrustError | None = None


def settle_anchor(path: Path, directory: Path, *, installed: bool) -> Anchor:
    """Hold the owner's root file against what was kept.

    Args:
        path: the root file of the configuration (``[trust] root``).
        directory: ``trust/`` of the state directory.
        installed: a version was installed here, which has to run whatever comes out.

    Raises:
        AgentError: nothing is installed, and the file is missing or no root, or cannot be kept.
        TrustError: nothing is installed, and it is refused, or another repository's.
        OSError: what was kept cannot be read.
    """
    hint = f"on the fleet's machine: edge-fleet root > {path.name}; then copy it to {path}"
    given, missing = _read(path)
    try:
        kept = TrustStore(directory).anchor
    except DamagedTrustError as damage:
        return Anchor(given, damage=damage)
    except TrustError:
        kept = None
    if given is None:
        if kept is not None:
            return Anchor(kept, note=f"{missing}; the root that was kept of it counts. try: {hint}")
        return _stop(kept, AgentError(missing, hint=hint), installed)
    if not is_root(given):
        what = f"{path}: expected the fleet's root of trust, and this file is something else"
        return _stop(kept, AgentError(what, hint=hint, exit_code=ExitCode.AUTH), installed)
    try:
        TrustStore(directory, root=given)
    except TrustError as error:
        return _stop(kept, error, installed)
    except OSError as error:
        unkept = f"cannot keep the trust root in {directory}: {error.strerror}"
        return _stop(kept, AgentError(unkept, hint="make it writable"), installed)
    return Anchor(given)


def _read(path: Path) -> tuple[bytes | None, str]:
    try:
        return path.read_bytes(), ""
    except OSError as error:
        return None, f"cannot read the trust root {path}: {error.strerror}"


def _stop(kept: bytes | None, error: AgentError | TrustError, installed: bool) -> Anchor:
    if not installed:
        raise error
    damage = DamagedTrustError(f"{error.message}; {_STOPS}", hint=error.hint, docs=error.docs)
    return Anchor(kept, damage=damage)
