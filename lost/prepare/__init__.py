"""Text to a prepared set: sources and readers, what is held out, encoding, resuming."""

VOCAB_SIZE = 8192
"""Entries of the tokenizer that is trained on the text, where none is given and no number."""
