"""Estimates of a run's cost before it starts: parameters, FLOPs, memory, disk."""
