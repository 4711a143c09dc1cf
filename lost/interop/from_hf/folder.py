"""A folder for transformers or mlx-lm, opened as a model: configuration, arrays one at a time, tokenizer."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lost.config import Config
from lost.errors import CheckpointError, DataError
from lost.interop.from_hf.description import SUPPORTED, read_description
from lost.interop.from_hf.weights import Weights, check_shapes
from lost.interop.layout import exported_name
from lost.interop.special_tokens import ends_of_text, with_ends
from lost.model.parameters import EMBEDDING, HEAD, index_limits, parameter_table, shapes_of, vocabulary
from lost.storage.arrays import fitting
from lost.tokenizer import Tokenizer, load_tokenizer
from lost.tokenizer.config_file import TEMPLATE, read_config

_SEQ_LEN = 2048  # of the windows in `lost eval`, unless the model's context is shorter


@dataclass(frozen=True)
class Imported:
    """A dense model of the Llama family, or what `lost convert` exported.

    Attributes:
        path: the folder.
        architecture: as its config.json names it.
        config: its vocabulary known. The folder doesn't describe training: sections other than `model` and `projection`
            hold values for evaluation and placeholders, which a training replaces.
        seq_len: of the windows in training; None: unknown.
        tokenizer: the folder's, with the tokens that end a text, where there are several, among its files.
        ends: the tokens that the folder says end a text, end-of-text perhaps among them.
        remarks: on how it was read, for the user.
        weights: its arrays.
    """

    path: Path
    architecture: str
    config: Config
    seq_len: int | None
    tokenizer: Tokenizer
    ends: tuple[int, ...]
    remarks: list[str]
    weights: Weights

    def parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every parameter in the order of a forward pass, one in memory at a time, in `train.param_dtype`.

        Raises:
            CheckpointError: a file that can't be read, or indices that are out of range.
        """
        table = parameter_table(self.config)
        arrays = ((name, self.read(name)) for name in table)
        return fitting(arrays, shapes_of(table), index_limits(table))

    def read(self, name: str) -> np.ndarray:
        """Return one parameter by our name, whatever the folder calls it, in `train.param_dtype`.

        Raises:
            CheckpointError: a file that can't be read.
        """
        return self.weights.read(_stored_name(self.config, self.architecture, name))


def open_folder(folder: Path) -> Imported:
    """Open a folder that transformers, mlx-lm or `lost convert` wrote: config.json, safetensors, a tokenizer.

    Names and shapes of all arrays are checked here; their values are read on demand. Nothing is executed.

    Args:
        folder: of a dense LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM, or an export.

    Raises:
        CheckpointError: the model can't be run exactly, or files are missing or damaged.
        DataError: there is no tokenizer, or it isn't this model's.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; expected one with a model of {', '.join(SUPPORTED)}; download it first"
        )
    description = read_description(folder)
    weights = Weights(folder)
    model, seq_len = description.model, description.seq_len
    config = Config.model_validate(
        {
            "model": model.model_dump(),
            "projection": description.projection.model_dump(),
            "data": {"seq_len": seq_len or min(_SEQ_LEN, model.max_position_embeddings)},
            "train": {"batch_size": 8, "micro_batch_size": 1, "dtype": weights.dtype, "param_dtype": weights.dtype},
            "schedule": {"steps": 1},
        }
    )
    table = parameter_table(config)
    expected = {_stored_name(config, description.architecture, name): row.shape for name, row in table.items()}
    shapes = dict(weights.shapes)
    if model.tie_word_embeddings and HEAD in shapes:
        _check_tied(folder, weights)
        del shapes[HEAD]
    check_shapes(folder, shapes, expected)
    tokenizer = _tokenizer(folder, model.vocab_size)
    ends = ends_of_text(folder, vocabulary(config))
    remarks = [*description.remarks, *_unread_template(folder, tokenizer)]
    tokenizer = with_ends(tokenizer, ends)
    return Imported(folder, description.architecture, config, seq_len, tokenizer, ends, remarks, weights)


def _stored_name(config: Config, architecture: str, name: str) -> str:
    """Return the name that a folder has for a parameter."""
    return exported_name(config.model, architecture in SUPPORTED, name)


def _check_tied(folder: Path, weights: Weights) -> None:
    if EMBEDDING in weights.shapes and not np.array_equal(weights.read(HEAD), weights.read(EMBEDDING)):
        raise CheckpointError(
            f"{folder}: tie_word_embeddings = true, and {HEAD} differs from {EMBEDDING}; expected only one of them, "
            "or equal ones; correct config.json"
        )


def _tokenizer(folder: Path, entries: int | None) -> Tokenizer:
    tokenizer = load_tokenizer(folder)
    assert entries is not None
    if tokenizer.vocab_size > entries:
        raise DataError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} entries and its model {entries}; expected no more "
            "than the model's; use the tokenizer that belongs to it"
        )
    return tokenizer


def _unread_template(folder: Path, tokenizer: Tokenizer) -> list[str]:
    """Return a remark where a chat template stands beside a tokenizer that can't take it: its tokens are no text's."""
    held = read_config(folder / tokenizer.FILE).get("chat_template") or (folder / TEMPLATE).exists()
    if tokenizer.chat_template or not held:
        return []
    return [
        f"the chat template of {folder} isn't read: {tokenizer.FILE} encodes no text to the tokens that it writes; "
        "with a tokenizer.json in the folder, which transformers' save_pretrained writes, it is"
    ]
