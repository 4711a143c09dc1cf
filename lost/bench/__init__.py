"""Benchmarks: kinds of projection compared, in a layer and in a whole step."""
