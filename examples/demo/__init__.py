"""The whole journey on one machine, with separate real processes: ``make demo``."""
