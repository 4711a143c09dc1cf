"""Functions with backward passes of their own: the LOST layer, elementwise functions, the head's loss."""
