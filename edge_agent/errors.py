"""The root of what can go wrong on the device."""

from edge_contract.errors import WherryError


class AgentError(WherryError):
    """The agent cannot do what was asked of it."""
