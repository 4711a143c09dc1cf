"""The tokenizer as Hugging Face's `tokenizers` reads it: tokenizer.json made from a sentencepiece model."""

import json
from typing import Any

from lost.errors import DataError
from lost.extras import need
from lost.tokenizer.base import Tokenizer
from lost.tokenizer.huggingface import CONFIG, JsonTokenizer
from lost.tokenizer.sentencepiece import PieceTokenizer

_BPE = 2  # sentencepiece's number of this kind of model
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # and of kinds of pieces
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
        MissingPackageError: `tokenizers` or `protobuf` isn't installed.
    """
    if isinstance(tokenizer, PieceTokenizer):
        what = "making a tokenizer.json"
        pieces = need("sentencepiece.sentencepiece_model_pb2", "hf", what)
        proto = pieces.ModelProto.FromString(tokenizer.files[PieceTokenizer.FILE])
        content = _converted(need("tokenizers", "hf", what), proto)
        own = {"eos_token": proto.pieces[tokenizer.end_of_text].piece, "split_special_tokens": True}
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


def _converted(tokenizers: Any, proto: Any) -> bytes:
    result = tokenizers.Tokenizer(_model(tokenizers, proto))
    result.normalizer = _normalizer(tokenizers, proto.normalizer_spec)
    steps = [tokenizers.decoders.Replace(_SPACE, " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(tokenizers.decoders.Strip(" ", 1, 0))
    result.decoder = tokenizers.decoders.Sequence(steps)
    for piece in proto.pieces:
        if piece.type in (_UNKNOWN, _CONTROL, _USER_DEFINED):
            special = piece.type != _USER_DEFINED
            result.add_tokens([tokenizers.AddedToken(piece.piece, normalized=False, special=special)])
    return result.to_str().encode()


def _model(tokenizers: Any, proto: Any) -> Any:
    spec = proto.trainer_spec
    if spec.model_type != _BPE:
        raise DataError(
            "the run's sentencepiece model is not BPE: other tools would cut some texts elsewhere (where a unigram "
            "model has equally likely cuts, say); expected a BPE model, as `lost prepare` trains it; such a run can't "
            "be exported"
        )
    pieces = [piece.piece for piece in proto.pieces]
    return tokenizers.models.BPE(
        {piece: number for number, piece in enumerate(pieces)},
        _merges(proto),
        unk_token=pieces[spec.unk_id],
        fuse_unk=True,
        byte_fallback=spec.byte_fallback,
    )


def _merges(proto: Any) -> list[tuple[str, str]]:
    """Return the pairs that make a piece, in the order in which sentencepiece joins them: the highest score first."""
    reserved = (_UNKNOWN, _CONTROL, _BYTE)
    numbers = {piece.piece: n for n, piece in enumerate(proto.pieces) if piece.type not in reserved}
    found = []
    for whole, number in numbers.items():
        for cut in range(1, len(whole)):
            left, right = whole[:cut], whole[cut:]
            if left in numbers and right in numbers:
                found.append((-proto.pieces[number].score, numbers[left], numbers[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _normalizer(tokenizers: Any, spec: Any) -> Any:
    kinds, steps = tokenizers.normalizers, []
    if spec.precompiled_charsmap:
        steps.append(kinds.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [kinds.Strip(), kinds.Replace(tokenizers.Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(kinds.Prepend(_SPACE))
    return kinds.Sequence([*steps, kinds.Replace(" ", _SPACE)])
