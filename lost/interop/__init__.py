"""Conversion: models to and from other libraries, and checkpoints to another type or file size."""
