"""Storage: atomic writes, files opened safely, locks, named arrays in safetensors."""
