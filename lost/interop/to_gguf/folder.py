"""Export of a folder with a GGUF file: written, read back, opened by llama.cpp, and kept only if that agrees."""

from pathlib import Path

from lost.checkpoint import Checkpoint
from lost.errors import ConfigError
from lost.interop.destination import check_free
from lost.interop.layout import is_plain
from lost.interop.special_tokens import as_learned, ends_of, imported
from lost.interop.to_gguf.file import check_file, write_file
from lost.interop.to_gguf.modelfile import FILE, MARK, modelfile
from lost.interop.to_gguf.tensors import NAMES, GgufType, Tensors, tensors
from lost.interop.to_gguf.vocabulary import vocabulary
from lost.interop.to_hf.check import check_with, installed_readers, log_probabilities, own_scores, probe
from lost.interop.to_hf.dense import merge, merged
from lost.interop.to_hf.folder import Export
from lost.interop.to_hf.samples import validation_texts
from lost.storage.files import atomic_dir
from lost.storage.nofollow import DOCUMENT_BYTES, read_bytes, write_new
from lost.tokenizer.comparison import AWKWARD
from lost.utils.extras import need

READERS = {"llama.cpp": "lost.interop.to_gguf.reader"}
_POSITIONS = 12  # of the tokens to compare on: llama.cpp tells the whole vocabulary's probabilities as text
# Differences of log-probabilities, as a share of the largest: llama.cpp rounds what matrices multiply as it does them.
_TOLERANCES: dict[GgufType, float] = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 2e-2, "q8_0": 3e-2}


def export(
    source: Checkpoint, path: Path, dtype: GgufType = "float16", overwrite: bool = False, backend: str = "auto"
) -> Export:
    """Write a checkpoint as a folder with a GGUF file and a Modelfile, each layer merged into one matrix.

    Args:
        source: a verified checkpoint.
        path: a folder that doesn't exist yet.
        dtype: of the matrices; vectors are always float32.
        overwrite: replace an earlier export of this kind.
        backend: computes the log-probabilities to compare with.

    Raises:
        CheckpointError: something is at `path`.
        ConfigError: projections can't be merged, or llama.cpp has no such model.
        DataError: llama.cpp has no such tokenizer.
        ExportError: what was read back, or llama.cpp, doesn't agree. Nothing is left at `path`.
        MissingPackageError: the library isn't installed.
        StorageError: the disk refused.
    """
    check_free(path, overwrite, _is_ours, (FILE, *map(_name, NAMES)))
    gguf = need("gguf", "gguf", "writing a GGUF file")
    tokenizer = as_learned(source)
    words, texts = vocabulary(tokenizer), [*AWKWARD, *validation_texts(source.config, tokenizer)]
    tokens = probe(tokenizer, texts, source.config.model.max_position_embeddings)[:_POSITIONS]
    target = merge(source, "gguf", tokens, backend)
    scaling = target.model.rope_scaling
    if not is_plain(target) or (target.model.use_qk_norm and scaling and scaling.rope_type == "llama3"):
        raise ConfigError(
            "--to gguf: llama.cpp has no model whose queries and keys are normed and that has biases, or rotary "
            "frequencies of llama3, as this one; expected a Llama, or a Qwen3 without these; use --to hf"
        )
    entries = len(words.tokens)

    def stored() -> Tensors:
        return tensors(gguf, target, entries, merged(source.config, target, source.parameters()))

    readers, missing = installed_readers(READERS)
    with atomic_dir(path, replace=overwrite) as partial:
        file = partial / _name(dtype)
        write_file(gguf, file, target, words, tokenizer, not imported(source.progress), dtype, stored)
        check_file(gguf, file, stored())
        further = [words.tokens[each] for each in ends_of(source) if each < entries and each != tokenizer.end_of_text]
        described = modelfile(file.name, tokenizer, target.model.max_position_embeddings, further)
        write_new(partial / FILE, described.encode())
        agreements = []
        for reader, module in readers.items():
            scores = own_scores(target, merged(source.config, target, source.parameters()), tokens, backend)
            ours = log_probabilities(scores[:, :entries])
            agreements.append(
                check_with(reader, module, file, tokens, ours, tokenizer, texts, tolerance=_TOLERANCES[dtype])
            )
        size = sum(each.stat().st_size for each in partial.iterdir())
    return Export(path, True, dtype, size, agreements, missing, words.remarks)


def _name(dtype: GgufType) -> str:
    return f"model-{NAMES[dtype].lower()}.gguf"


def _is_ours(path: Path) -> bool:
    return read_bytes(path / FILE, DOCUMENT_BYTES).startswith(MARK.encode())
