"""``edge-compile``: a float model in, a proven int8 bundle out."""
