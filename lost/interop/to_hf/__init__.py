"""Export of checkpoints for transformers, mlx-lm, and what is built on them."""
