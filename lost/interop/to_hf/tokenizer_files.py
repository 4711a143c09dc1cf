"""Export of the tokenizer for Hugging Face's `tokenizers`: a sentencepiece model converted to tokenizer.json."""

import json
from typing import Any

from lost.errors import DataError
from lost.interop.to_hf.pieces import BPE, BYTE, CONTROL, UNKNOWN, USER_DEFINED, Piece, PieceModel, read_pieces
from lost.tokenizer.base import CONFIG, Tokenizer
from lost.tokenizer.huggingface import JsonTokenizer
from lost.tokenizer.sentencepiece import SPACE, PieceTokenizer
from lost.utils.extras import need


def tokenizer_files(tokenizer: Tokenizer, positions: int) -> dict[str, bytes]:
    """Return the tokenizer files of an export.

    A tokenizer.json is unchanged. A sentencepiece model is accompanied by one that gives the same ids, puts before a
    text what that model's own programs put, if anything, and, like sentencepiece, treats special tokens that are
    written out in a text as text.

    Args:
        tokenizer: the run's, as its model learned it.
        positions: of the model, which limit the length of a text.

    Raises:
        DataError: the sentencepiece model isn't BPE.
        MissingPackageError: `tokenizers` isn't installed.
    """
    if isinstance(tokenizer, PieceTokenizer):
        model = read_pieces(tokenizer.files[PieceTokenizer.FILE])
        begin = None if tokenizer.begin_of_text is None else model.pieces[tokenizer.begin_of_text].text
        content = _converted(need("tokenizers", "hf", "writing tokenizer.json"), model, begin)
        own = {"eos_token": model.pieces[tokenizer.end_of_text].text, "split_special_tokens": True}
        own |= {"bos_token": begin} if begin else {}
        own |= {"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}
    else:
        content, own = tokenizer.files[JsonTokenizer.FILE], json.loads(tokenizer.files[CONFIG])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # uses tokenizer.json as it is; a model's own class may change it
        "bos_token": own["eos_token"],  # precedes every text in training, and evaluators prepend it; else its own
        "pad_token": own["eos_token"],
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": positions,
        **own,
    }
    described = {JsonTokenizer.FILE: content, CONFIG: (json.dumps(config, indent=2) + "\n").encode()}
    return {**tokenizer.files, **described}


def _converted(tokenizers: Any, model: PieceModel, begin: str | None) -> bytes:
    result = tokenizers.Tokenizer(_bpe(tokenizers, model))
    result.normalizer = _normalizer(tokenizers, model)
    steps = [tokenizers.decoders.Replace(SPACE, " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    if model.dummy_prefix:
        steps.append(tokenizers.decoders.Strip(" ", 1, 0))
    result.decoder = tokenizers.decoders.Sequence(steps)
    for piece in model.pieces:
        if piece.kind in (UNKNOWN, CONTROL, USER_DEFINED):
            special = piece.kind != USER_DEFINED
            result.add_tokens([tokenizers.AddedToken(piece.text, normalized=False, special=special)])
    if begin:
        result.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, result.token_to_id(begin))]
        )
    return result.to_str().encode()


def _bpe(tokenizers: Any, model: PieceModel) -> Any:
    if model.kind != BPE:
        raise DataError(
            "the run's sentencepiece model is not BPE: other tools would split some texts differently (as where a "
            "unigram model has equally likely splits); expected a BPE model, as `lost prepare` trains it; such a run "
            "can't be exported"
        )
    return tokenizers.models.BPE(
        {piece.text: number for number, piece in enumerate(model.pieces)},
        _merges(model.pieces),
        unk_token=model.pieces[model.unknown].text,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Return the pairs that merge into a piece, in sentencepiece's order: the highest score first."""
    numbers = {piece.text: n for n, piece in enumerate(pieces) if piece.kind not in (UNKNOWN, CONTROL, BYTE)}
    merges = []
    for whole, number in numbers.items():
        for cut in range(1, len(whole)):
            left, right = whole[:cut], whole[cut:]
            if left in numbers and right in numbers:
                merges.append((-pieces[number].score, numbers[left], numbers[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def _normalizer(tokenizers: Any, model: PieceModel) -> Any:
    kinds, steps = tokenizers.normalizers, []
    if model.characters:
        steps.append(kinds.Precompiled(model.characters))
    if model.collapse_spaces:
        steps += [kinds.Strip(), kinds.Replace(tokenizers.Regex(" {2,}"), " ")]
    if model.dummy_prefix:
        steps.append(kinds.Prepend(SPACE))
    return kinds.Sequence([*steps, kinds.Replace(" ", SPACE)])
