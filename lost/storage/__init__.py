"""Bytes on disk: files opened safely and written whole, locks, named arrays in safetensors."""
