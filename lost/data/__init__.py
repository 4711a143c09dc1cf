"""Prepared data as training reads it: shards, windows, their order, mixtures of sets."""
