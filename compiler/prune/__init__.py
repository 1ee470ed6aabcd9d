"""Structured pruning without retraining: groups, ranking, removal, least-squares rebuild."""
