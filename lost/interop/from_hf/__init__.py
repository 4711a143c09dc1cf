"""Models of others: dense Llama-family folders, as transformers and mlx-lm write them, read as dense `lost` models."""

from lost.interop.from_hf.folder import Imported, open_folder

__all__ = ["Imported", "open_folder"]
