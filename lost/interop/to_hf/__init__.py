"""A checkpoint as other programs open it: transformers, mlx-lm, and what is built on them."""
