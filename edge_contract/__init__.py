"""The words both sides speak: bundle, messages, topics, sketches, profiles, errors.

Pure codecs. No clock, no sockets; only ``layout`` touches the disk.
"""

__version__ = "0.1.0"
