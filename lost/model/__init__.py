"""The model, framework-free: parameters, initial weights, a slow reference, inspection of checkpoints."""
