"""What the device says about itself, kept on disk until the fleet has it."""
