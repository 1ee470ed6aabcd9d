"""What the device believes: TUF metadata, the director's orders, bundles, and what time it is."""
