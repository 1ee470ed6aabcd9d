"""The words both sides speak: bundle, messages, topics, sketches, profiles, errors.

Pure codecs. No clock, no sockets; only ``layout`` touches the disk.
"""
