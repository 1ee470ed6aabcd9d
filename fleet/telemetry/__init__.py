"""Records of devices: taken in once each, acknowledged when committed, and asked for later."""
