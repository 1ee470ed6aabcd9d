"""How a device's agent stands beside this manager: both are updated apart (ADR 0008)."""

from __future__ import annotations

from edge_contract import __version__
from edge_contract.errors import ContractError
from edge_contract.metadata import version_order


def agent_skew(agent_version: str, own: str = __version__) -> str:
    """What to say of an agent's version beside the manager's.

    Returns:
        "" where they are the same or nothing is known, else a few words.
    """
    if agent_version in ("", own):
        return ""
    try:
        older = version_order(agent_version) < version_order(own)
    except ContractError:
        return f"not a release; the manager is {own}"
    return f"{'older' if older else 'newer'} than the manager's {own}"
