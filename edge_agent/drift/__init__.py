"""Drift on the device: a detector with a bounded run length, commissioned on the device itself.

Pure code: samples and monotonic time come in as arguments, findings go out as events, and all
state is bytes. ``monitor.DriftMonitor`` is what the agent calls.
"""
