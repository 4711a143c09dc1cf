"""The model on one device, or sharded over several."""
