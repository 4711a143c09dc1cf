"""Optimizer steps on the device."""
