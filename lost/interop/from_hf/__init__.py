"""Import of dense Llama-family models, from folders that transformers or mlx-lm wrote."""

from lost.interop.from_hf.folder import Imported, open_folder

__all__ = ["Imported", "open_folder"]
