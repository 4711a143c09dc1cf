"""Output of commands: answers, progress, streams that never fail."""
