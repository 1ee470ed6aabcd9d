"""Blobs on their way to devices: who may have which, and in which order blocks go out."""
