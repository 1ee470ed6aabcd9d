"""Commands of ``edge-compile`` that look and compare, and change nothing."""
