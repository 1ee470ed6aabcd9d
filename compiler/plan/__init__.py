"""What is decided about a model in int8, apart from how any file format writes it."""
