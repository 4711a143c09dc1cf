"""Backends: each executes, in one framework, what the core decides. None imports another."""
