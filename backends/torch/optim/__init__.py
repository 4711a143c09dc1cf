"""Optimizer updates on the device."""
