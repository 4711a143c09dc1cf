"""Export of a folder: written, opened by the programs it is for, and kept only if they agree with our engine."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors

from lost.checkpoint import CONFIG, Checkpoint
from lost.config import Config, DType
from lost.evaluation.perplexity import Evaluation
from lost.interop.destination import check_free
from lost.interop.layout import is_plain, renamed
from lost.interop.rewrite import cast
from lost.interop.special_tokens import GENERATION, as_learned, begin_of_text, ends_of_text, imported
from lost.interop.to_hf.card import card
from lost.interop.to_hf.check import (
    QUANTIZED_READERS,
    READERS,
    Agreement,
    check_adds_nothing,
    check_with,
    installed_readers,
    own_scores,
    probe,
)
from lost.interop.to_hf.dense import merge, merged
from lost.interop.to_hf.description import VERSION, code_files, generation_config, model_config
from lost.interop.to_hf.quantized import Quantization, Quantized, check_quantizer, dequantized, described, quantize
from lost.interop.to_hf.samples import validation_texts
from lost.interop.to_hf.tokenizer_files import tokenizer_files
from lost.model.adapted import adapters
from lost.model.parameters import vocabulary
from lost.storage.arrays import NamedArrays
from lost.storage.files import atomic_dir
from lost.storage.nofollow import DOCUMENT_BYTES, read_bytes
from lost.storage.tensors import PART_BYTES, write_tensors
from lost.tokenizer.comparison import AWKWARD
from lost.utils.parsing import parse_object

Form = Literal["hf", "mlx-lm", "dense"]
_CARD = "README.md"
_WEIGHTS = "model.safetensors"
_NAMES = (CONFIG, GENERATION, _CARD, "tokenizer*", "model*.safetensors", f"{_WEIGHTS}.index.json", *code_files())


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        path: the folder.
        plain: whether it opens without code of ours.
        dtype: of the weights.
        bytes: of all files.
        agreements: the readers that opened it and agreed.
        missing: the readers that can't be used here, and why.
        remarks: on what is not as in the run, for the user.
        quantized: what was quantized; None: nothing.
    """

    path: Path
    plain: bool
    dtype: str
    bytes: int
    agreements: list[Agreement]
    missing: dict[str, str]
    remarks: Sequence[str] = ()
    quantized: Quantized | None = None


Measure = Callable[[Config, NamedArrays], Evaluation]
"""Evaluates a model, of this configuration and with these parameters, on a text."""


def export(
    source: Checkpoint,
    path: Path,
    form: Form,
    dtype: DType | None = None,
    part_bytes: int = PART_BYTES,
    overwrite: bool = False,
    backend: str = "auto",
    license: str | None = None,
    quantization: Quantization | None = None,
    measure: Measure | None = None,
) -> Export:
    """Write a checkpoint as a folder for transformers and mlx-lm, and check it with those that are installed.

    Args:
        source: a verified checkpoint.
        path: a folder that doesn't exist yet.
        form: `hf` and `mlx-lm` are the same folder, whose adapters are merged; `dense` merges every projection into a
            plain matrix first.
        dtype: of the weights; None: unchanged.
        part_bytes: start a new file once one holds this much.
        overwrite: replace an earlier export.
        backend: computes the log-probabilities to compare with.
        license: as in `card`.
        quantization: of the matrices, for mlx-lm alone; None: they stay as they are.
        measure: evaluates the model before and after it is quantized; None: there is no text.

    Raises:
        CheckpointError: something is at `path`.
        ConfigError: projections can't be merged.
        DataError: the tokenizer can't be exported.
        ExportError: a reader doesn't agree. Nothing is left at `path`.
        MissingPackageError: the package that writes tokenizer.json isn't installed, or what quantizes.
        StorageError: the disk refused.
        UserError: a group divides no row, so that nothing can be quantized.
    """
    check_free(path, overwrite, _is_ours, _NAMES)
    if quantization:
        check_quantizer()
    target, tokenizer = source.config, source.tokenizer()
    texts = [*AWKWARD, *validation_texts(target, tokenizer)]
    tokens = probe(tokenizer, texts, target.model.max_position_embeddings)
    merging = form == "dense" or bool(adapters(target))
    if merging:
        target = merge(source, form, tokens, backend)
    kept = dtype or source.config.train.param_dtype

    def arrays() -> NamedArrays:
        held = source.parameters()
        return cast(merged(source.config, target, held) if merging else held, kept)

    readers, missing = installed_readers(QUANTIZED_READERS if quantization else READERS)
    with atomic_dir(path, replace=overwrite) as folder:
        write(folder, source, target, arrays(), kept, part_bytes, license)
        if not imported(source.progress):
            check_adds_nothing(folder)
        quantized, own = None, arrays
        if quantization:
            config, stored = quantize(folder, quantization)
            own = partial(dequantized, target, stored, quantization)
            quantized = described(stored, quantization)
            if measure:
                quantized = replace(quantized, before=measure(target, arrays()), after=measure(target, own()))
            _rewrite(folder, config, stored, part_bytes)
            (folder / _CARD).write_bytes(card(source, target, kept, license, quantized).encode())
        ours = own_scores(target, own(), tokens, backend) if readers else np.empty(0)
        agreements = [check_with(*each, folder, tokens, ours, tokenizer, texts) for each in readers.items()]
        size = sum(file.stat().st_size for file in folder.iterdir())
    return Export(path, is_plain(target), kept, size, agreements, missing, quantized=quantized)


def write(
    folder: Path,
    source: Checkpoint,
    target: Config,
    arrays: NamedArrays,
    dtype: DType,
    part_bytes: int = PART_BYTES,
    license: str | None = None,
) -> None:
    """Write all files of an export.

    Args:
        folder: an empty one.
        target: the configuration of the model that `arrays` are: the source's, or its dense twin's.
        arrays: parameters, under our names.
        dtype: of them.
        part_bytes: start a new file once one holds this much.
        license: as in `card`.
    """
    tokenizer = as_learned(source)
    ends = ends_of_text(source.path, vocabulary(source.config))
    special = generation_config(tokenizer.end_of_text, begin_of_text(tokenizer), ends)
    files = tokenizer_files(tokenizer, target.model.max_position_embeddings)
    described = model_config(target, tokenizer.end_of_text, dtype)
    files[CONFIG] = _json(described | {key: special[key] for key in ("bos_token_id", "eos_token_id")})
    files[GENERATION] = _json(special)
    files |= {} if is_plain(target) else code_files()
    files[_CARD] = card(source, target, dtype, license).encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    _name_parts(folder, write_tensors(folder, "model", renamed(target, arrays), part_bytes))


def _rewrite(folder: Path, config: dict[str, Any], arrays: Mapping[str, np.ndarray], part_bytes: int) -> None:
    """Replace an export's configuration and weights."""
    for file in (*folder.glob("model*.safetensors"), *folder.glob(f"{_WEIGHTS}.index.json")):
        file.unlink()
    (folder / CONFIG).write_bytes(_json(config))
    _name_parts(folder, write_tensors(folder, "model", arrays.items(), part_bytes))


def _name_parts(folder: Path, names: Iterable[str]) -> None:
    """Rename weight files as Hugging Face's libraries expect, with an index if there are several."""
    parts = sorted(names)
    if len(parts) == 1:
        (folder / parts[0]).rename(folder / _WEIGHTS)
        return
    weight_map: dict[str, str] = {}
    size = 0
    for part in parts:
        stem, _, suffix = part.rpartition(".")
        renamed_part = f"{stem}-of-{len(parts):05d}.{suffix}"
        (folder / part).rename(folder / renamed_part)
        size += (folder / renamed_part).stat().st_size
        with safetensors.safe_open(folder / renamed_part, "np") as opened:
            weight_map |= dict.fromkeys(opened.keys(), renamed_part)
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / f"{_WEIGHTS}.index.json").write_bytes(_json(index))


def _is_ours(path: Path) -> bool:
    return VERSION in parse_object(read_bytes(path / CONFIG, DOCUMENT_BYTES))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
