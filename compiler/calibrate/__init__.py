"""Which values each tensor of the float graph takes on calibration samples."""
