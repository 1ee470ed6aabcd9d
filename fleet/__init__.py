"""``edge-fleet``: publish, roll out in gated waves, collect telemetry and drift."""
