"""Text to a prepared set: sources and readers, what is held out, encoding, resuming."""

VOCAB_SIZE = 8192
"""Entries of the tokenizer that is trained on the text, where none is given and no number."""
SPLIT = "train"
"""Split of a data set of the hub that is trained on, unless another is named."""
TEXT_KEY = "text"
"""Field of a JSON line, or column, that holds the text, likewise."""
