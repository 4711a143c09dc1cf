"""Weights as llama.cpp names, orders and types them."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from lost.config import Config, ModelConfig
from lost.errors import ExportError
from lost.model.parameters import EMBEDDING, HEAD
from lost.model.rope import frequencies
from lost.storage.arrays import NamedArrays

GgufType = Literal["float32", "float16", "bfloat16", "q8_0"]
Tensors = Iterator[tuple[str, np.ndarray]]
NAMES: dict[GgufType, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
"""The names of types in GGUF."""

_ROPE_FACTORS = "rope_freqs.weight"
_BLOCK = 32  # entries of a row that share a scale in Q8_0
# How far a stored number may be from its own: as a share of it, of the largest in its block, and in any case. The scale
# of a block of small numbers is below float16's range, so off by up to 2**-25, and a number by 127 times that.
_ERRORS = {"F32": (0, 0, 0), "F16": (2**-11, 0, 2**-24), "BF16": (2**-8, 0, 0), "Q8_0": (2**-11, 0.51 / 127, 2**-18)}


def architecture(gguf: Any, model: ModelConfig) -> Any:
    """Return the library's constant for llama.cpp's model of this kind."""
    return gguf.MODEL_ARCH.QWEN3 if model.use_qk_norm else gguf.MODEL_ARCH.LLAMA


def tensors(gguf: Any, config: Config, entries: int, arrays: NamedArrays) -> Tensors:
    """Yield the tensors of a file, float32.

    Args:
        gguf: the library.
        config: of a model of plain matrices.
        entries: of the tokenizer; further rows of embedding and head, which were never trained, are left out.
        arrays: its parameters, under our names.
    """
    names = gguf.get_tensor_name_map(architecture(gguf, config.model), config.model.num_hidden_layers)
    for name, array in arrays:
        kept = array[:entries] if name in (EMBEDDING, HEAD) else array
        stem, _, suffix = name.rpartition(".")
        yield f"{names.get_name(stem)}.{suffix}", _paired(config.model, stem, kept.astype(np.float32))
    if config.model.rope_scaling and config.model.rope_scaling.rope_type == "llama3":
        plain = frequencies(config.model.model_copy(update={"rope_scaling": None}))
        yield _ROPE_FACTORS, (plain / frequencies(config.model)).astype(np.float32)


def _paired(model: ModelConfig, name: str, array: np.ndarray) -> np.ndarray:
    """Return queries and keys in the order in which llama.cpp rotates a Llama's: neighbours together, not halves."""
    heads = {"q_proj": model.num_attention_heads, "k_proj": model.key_value_heads}.get(name.rpartition(".")[2])
    if heads is None or model.use_qk_norm:  # normed ones, a Qwen3's, are rotated by halves there too
        return array
    halves = array.reshape(heads, 2, model.head_width // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def stored_as(shape: tuple[int, ...], dtype: GgufType) -> str:
    """Return GGUF's name of the type in which a tensor is stored.

    Vectors are float32, as llama.cpp needs them; rows that can't be cut into blocks are float16.
    """
    if len(shape) == 1:
        return "F32"
    return "F16" if dtype == "q8_0" and shape[-1] % _BLOCK else NAMES[dtype]


def check_stored(name: str, intended: np.ndarray, stored: np.ndarray, kind: str) -> None:
    """Check that a tensor read back is the intended one, as closely as its type holds it.

    Raises:
        ExportError: it isn't.
    """
    share, of_block, least = _ERRORS[kind]
    size = np.abs(intended)
    allowed = share * size + least
    if of_block:
        blocks = size.reshape(-1, _BLOCK)
        allowed += of_block * np.broadcast_to(blocks.max(axis=1, keepdims=True), blocks.shape).reshape(size.shape)
    if stored.shape != intended.shape or not (np.abs(stored - intended) <= allowed).all():
        raise ExportError(
            f"{name} was read back as {kind} with other values than it was written from; expected them within that "
            "type's rounding and range; nothing was kept; convert with --dtype float32, or to another disk if that "
            "fails too"
        )
