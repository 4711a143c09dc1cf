"""The model on one device, or on many."""
