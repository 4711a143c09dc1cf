"""Models to and from other libraries, and checkpoints re-written."""
