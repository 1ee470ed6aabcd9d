"""The versioned hook protocol and its runner."""
