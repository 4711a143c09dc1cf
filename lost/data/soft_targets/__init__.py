"""Soft targets: what a teacher predicts on a prepared set, kept on disk, so that others learn from it without it."""
