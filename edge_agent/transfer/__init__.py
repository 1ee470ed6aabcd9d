"""Pull blobs by digest, block by block, resuming from what the disk already holds."""
