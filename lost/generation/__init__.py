"""How a model writes: its next token, a text up to an end, samples in training."""
