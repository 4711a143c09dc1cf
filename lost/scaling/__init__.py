"""Scaling laws of finished runs: the loss by size and tokens, what it will be, and where two kinds' curves cross."""
