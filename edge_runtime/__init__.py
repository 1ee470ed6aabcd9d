"""What runs a bundle's model: the same code on the device and at compile time."""
