"""A GGUF file: written by the library of llama.cpp's authors, and read back tensor by tensor."""

from collections.abc import Callable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from lost.config import Config
from lost.errors import ExportError
from lost.interop.special_tokens import begin_of_text, puts_before
from lost.interop.to_gguf.tensors import NAMES, GgufType, Tensors, architecture, check_stored, stored_as
from lost.interop.to_gguf.vocabulary import Vocabulary
from lost.tokenizer import Tokenizer
from lost.tokenizer.chat_template import default_template
from lost.tokenizer.jinja import TemplateError


def write_file(
    gguf: Any,
    path: Path,
    config: Config,
    words: Vocabulary,
    tokenizer: Tokenizer,
    ours: bool,
    dtype: GgufType,
    tensors: Callable[[], Tensors],
) -> None:
    """Write a file.

    Args:
        gguf: the library.
        path: of the file.
        config: the model's.
        words: of its tokenizer.
        tokenizer: the run's, as its model learned it.
        ours: whether it was trained by us, not imported.
        dtype: of the matrices.
        tensors: yields what is to be in it, float32, in one order whenever it is called.
    """
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture(gguf, config.model)])
    try:
        _describe_model(gguf, writer, config, len(words.tokens), dtype)
        _describe_tokenizer(writer, words, tokenizer, ours)
        kinds = {}
        for name, array in tensors():
            kinds[name] = kind = gguf.GGMLQuantizationType[stored_as(array.shape, dtype)]
            shape = gguf.quant_shape_to_byte_shape(array.shape, kind)
            writer.add_tensor_info(name, shape, np.dtype(np.uint8), prod(shape), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, array in tensors():
            with np.errstate(over="ignore"):  # what float16 can't hold is found as it is read back
                writer.write_tensor_data(gguf.quantize(array, kinds[name]).view(np.uint8))
    finally:
        writer.close()


def check_file(gguf: Any, path: Path, tensors: Tensors) -> None:
    """Read a file back, and compare every tensor with what it was meant to be.

    Raises:
        ExportError: one differs, or there are others.
    """
    found = {each.name: each for each in gguf.GGUFReader(path).tensors}
    for name, array in tensors:
        each = found.pop(name)
        check_stored(name, array, gguf.dequantize(each.data, each.tensor_type), each.tensor_type.name)
    if found:
        raise ExportError(f"{path.name} holds {min(found)} beside the model's own; nothing was kept; report this")


def _describe_model(gguf: Any, writer: Any, config: Config, entries: int, dtype: GgufType) -> None:
    model = config.model
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if dtype == "float32" else f"MOSTLY_{NAMES[dtype]}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(entries)
    writer.add_context_length(model.max_position_embeddings)
    writer.add_embedding_length(model.hidden_size)
    writer.add_block_count(model.num_hidden_layers)
    writer.add_feed_forward_length(model.intermediate_size)
    writer.add_head_count(model.num_attention_heads)
    writer.add_head_count_kv(model.key_value_heads)
    writer.add_key_length(model.head_width)
    writer.add_value_length(model.head_width)
    writer.add_layer_norm_rms_eps(model.rms_norm_eps)
    writer.add_rope_dimension_count(model.head_width)
    writer.add_rope_freq_base(model.rope_theta)
    if model.rope_scaling and model.rope_scaling.rope_type == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(model.rope_scaling.factor)


def _describe_tokenizer(writer: Any, words: Vocabulary, tokenizer: Tokenizer, ours: bool) -> None:
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_scores(words.scores)
    writer.add_token_merges(words.merges)
    begin = begin_of_text(tokenizer)
    writer.add_bos_token_id(begin)
    writer.add_eos_token_id(tokenizer.end_of_text)
    writer.add_pad_token_id(tokenizer.end_of_text)
    if words.unknown is not None:
        writer.add_unk_token_id(words.unknown)
    # Behind end-of-text every text of our training stood; of another token the tokenizer itself says whether.
    writer.add_add_bos_token((ours and begin == tokenizer.end_of_text) or puts_before(tokenizer, begin))
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(words.space_prefix)
    if tokenizer.chat_template:
        with suppress(TemplateError):  # no text: it is none here, as everywhere
            writer.add_chat_template(default_template(tokenizer.chat_template).encode(errors="replace").decode())
