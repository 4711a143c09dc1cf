"""The tokenizer as Hugging Face's `tokenizers` reads it: tokenizer.json made from a sentencepiece model."""

import json
from typing import Any

from lost.errors import DataError
from lost.interop.to_hf.pieces import BPE, BYTE, CONTROL, UNKNOWN, USER_DEFINED, Piece, PieceModel, read_pieces
from lost.tokenizer.base import Tokenizer
from lost.tokenizer.huggingface import CONFIG, JsonTokenizer
from lost.tokenizer.sentencepiece import PieceTokenizer
from lost.utils.extras import need

_SPACE = "\u2581"  # sentencepiece's sign for a space


def tokenizer_files(tokenizer: Tokenizer, positions: int) -> dict[str, bytes]:
    """Return the files by which other programs know a run's tokenizer. Nothing is put around a text.

    A tokenizer.json stays as it is. Beside a sentencepiece model stands one that gives the same ids; special tokens
    that are written out in a text are text to it, as they are to sentencepiece.

    Args:
        tokenizer: the run's.
        positions: the model has, the longest text it takes.

    Raises:
        DataError: a sentencepiece model that isn't BPE.
        MissingPackageError: `tokenizers` isn't installed.
    """
    if isinstance(tokenizer, PieceTokenizer):
        model = read_pieces(tokenizer.files[PieceTokenizer.FILE])
        content = _converted(need("tokenizers", "hf", "making a tokenizer.json"), model)
        own = {"eos_token": model.pieces[tokenizer.end_of_text].text, "split_special_tokens": True}
    else:
        content, own = tokenizer.files[JsonTokenizer.FILE], json.loads(tokenizer.files[CONFIG])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # takes tokenizer.json as it is; a model's own may change it
        "bos_token": own["eos_token"],  # what stands before a text in training; evaluators begin with it
        "pad_token": own["eos_token"],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": positions,
        **own,
    }
    described = {JsonTokenizer.FILE: content, CONFIG: (json.dumps(config, indent=2) + "\n").encode()}
    return {**tokenizer.files, **described}


def _converted(tokenizers: Any, model: PieceModel) -> bytes:
    result = tokenizers.Tokenizer(_bpe(tokenizers, model))
    result.normalizer = _normalizer(tokenizers, model)
    steps = [tokenizers.decoders.Replace(_SPACE, " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    if model.dummy_prefix:
        steps.append(tokenizers.decoders.Strip(" ", 1, 0))
    result.decoder = tokenizers.decoders.Sequence(steps)
    for piece in model.pieces:
        if piece.kind in (UNKNOWN, CONTROL, USER_DEFINED):
            special = piece.kind != USER_DEFINED
            result.add_tokens([tokenizers.AddedToken(piece.text, normalized=False, special=special)])
    return result.to_str().encode()


def _bpe(tokenizers: Any, model: PieceModel) -> Any:
    if model.kind != BPE:
        raise DataError(
            "the run's sentencepiece model is not BPE: other tools would cut some texts elsewhere (where a unigram "
            "model has equally likely cuts, say); expected a BPE model, as `lost prepare` trains it; such a run can't "
            "be exported"
        )
    return tokenizers.models.BPE(
        {piece.text: number for number, piece in enumerate(model.pieces)},
        _merges(model.pieces),
        unk_token=model.pieces[model.unknown].text,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Return the pairs that make a piece, in the order in which sentencepiece joins them: the highest score first."""
    numbers = {piece.text: n for n, piece in enumerate(pieces) if piece.kind not in (UNKNOWN, CONTROL, BYTE)}
    found = []
    for whole, number in numbers.items():
        for cut in range(1, len(whole)):
            left, right = whole[:cut], whole[cut:]
            if left in numbers and right in numbers:
                found.append((-pieces[number].score, numbers[left], numbers[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _normalizer(tokenizers: Any, model: PieceModel) -> Any:
    kinds, steps = tokenizers.normalizers, []
    if model.characters:
        steps.append(kinds.Precompiled(model.characters))
    if model.collapse_spaces:
        steps += [kinds.Strip(), kinds.Replace(tokenizers.Regex(" {2,}"), " ")]
    if model.dummy_prefix:
        steps.append(kinds.Prepend(_SPACE))
    return kinds.Sequence([*steps, kinds.Replace(" ", _SPACE)])
