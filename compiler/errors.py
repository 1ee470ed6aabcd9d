"""The root of what ``edge-compile`` refuses, and its kinds."""

from edge_contract.errors import WherryError


class CompileError(WherryError):
    """A build that cannot go on. Nothing was written."""


class SourceError(CompileError):
    """The model is unreadable, or not one that can be quantised."""


class DatasetError(CompileError):
    """Calibration, selection or test data that do not fit the model or each other."""


class OutputError(CompileError):
    """The output directory cannot take the result."""
