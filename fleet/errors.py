"""The root of every error that the fleet side raises."""

from __future__ import annotations

from edge_contract.errors import WherryError


class FleetError(WherryError):
    """Publishing, rolling out, ingesting or showing a fleet could not go on."""
