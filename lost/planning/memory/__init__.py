"""How much memory each backend takes beside the weights: its activations, its update, its chunks of logits."""
