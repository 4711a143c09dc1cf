"""The configurations that ship with the package, used by name: `lost train llama_60m`."""
