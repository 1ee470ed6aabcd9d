"""The image repository: which bundles are approved, signed as TUF metadata, and their blobs."""
