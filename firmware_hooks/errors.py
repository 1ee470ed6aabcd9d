"""The root of what can go wrong around hooks."""

from edge_contract.errors import WherryError


class HookError(WherryError):
    """A hook was asked for in a way that the protocol does not know."""
