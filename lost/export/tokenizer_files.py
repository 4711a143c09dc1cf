"""The tokenizer as Hugging Face's `tokenizers` reads it: tokenizer.json made from a sentencepiece model."""

import json
from typing import Any

from lost.errors import DataError
from lost.extras import need

JSON, CONFIG = "tokenizer.json", "tokenizer_config.json"
_BPE = 2  # sentencepiece's number of this kind of model
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # and of kinds of pieces
_SPACE = "\u2581"  # sentencepiece's sign for a space


def converted(model: bytes) -> bytes:
    """Return a tokenizer.json that gives the same ids as a sentencepiece model.

    Raises:
        DataError: a model that isn't BPE.
        MissingPackageError: `tokenizers` or `protobuf` isn't installed.
    """
    what = "making a tokenizer.json"
    tokenizers = need("tokenizers", "hf", what)
    proto = need("sentencepiece.sentencepiece_model_pb2", "hf", what).ModelProto.FromString(model)
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
            "the run's sentencepiece model is not BPE: other tools would cut some texts elsewhere (where a unigram model "
            "has equally likely cuts, say); expected a BPE model, as `lost prepare` trains it; such a run can't be exported"
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


def tokenizer_config(end_of_text: str, positions: int) -> bytes:
    """Return tokenizer_config.json for a converted model.

    Nothing is put around a text. Special tokens that are written out in it are text, as to sentencepiece.
    """
    value = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # takes tokenizer.json as it is; a model's own may change it
        "bos_token": end_of_text,  # what stands before a text in training; evaluators begin with it
        "eos_token": end_of_text,
        "pad_token": end_of_text,
        "padding_side": "left",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": positions,
    }
    return (json.dumps(value, indent=2) + "\n").encode()
