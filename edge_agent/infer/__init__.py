"""Inference, offline, always: frames in, answers out, models swapped between two frames."""
