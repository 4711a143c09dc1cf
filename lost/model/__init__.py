"""The model, framework-free: its parameters and their initial weights, a slow reference, what a checkpoint shows."""
