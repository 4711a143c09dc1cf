"""What `lost convert` does: exports and their upload, imports, models in another shape."""
