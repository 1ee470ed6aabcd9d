"""Drift at the fleet: comparing merged sketches with the reference of their model line."""
