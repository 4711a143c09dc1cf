"""Import of Llama-family models and exports, from folders that transformers, mlx-lm or `lost convert` wrote."""

from lost.interop.from_hf.folder import Imported, open_folder

__all__ = ["Imported", "open_folder"]
