"""Text to a prepared set: sources and readers, what is held out, encoding, resuming."""
