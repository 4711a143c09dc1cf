"""Functions with backward passes of their own: the head's loss, gathers, convolutions, checkpointing, Metal kernels."""
