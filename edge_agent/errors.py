"""The root of what the agent refuses or fails at."""

from edge_contract.errors import WherryError


class AgentError(WherryError):
    """Something on the device stands in the way; the message says what and where."""
