"""Where a new run begins: with the weights of another model, or as a branch of another run."""
