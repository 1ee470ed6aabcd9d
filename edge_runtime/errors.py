"""The root of what can go wrong while a model runs."""

from edge_contract.errors import WherryError


class ModelRuntimeError(WherryError):
    """A model that cannot be loaded, or an input that it cannot take."""


class InputRefusedError(ModelRuntimeError):
    """A frame of the wrong shape, dtype or content. Refused with a reason, and counted."""
