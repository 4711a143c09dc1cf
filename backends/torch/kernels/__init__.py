"""Layers' arithmetic with backward passes of its own: LOST, elementwise functions, the head's loss."""
