"""The root of what can go wrong on the device."""

from edge_contract.errors import TrustError, WherryError


class AgentError(WherryError):
    """The agent cannot do what was asked of it."""


class DamagedTrustError(TrustError):
    """What the device kept about trust cannot be read: new installs stop, what runs goes on."""
