"""TensorFlow Lite files: read a float one into ONNX, write an int8 one from a plan."""
