"""Arithmetic with backward passes of its own: the head's loss, activation checkpointing."""
