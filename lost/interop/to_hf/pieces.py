"""Parsing of a sentencepiece model's file, for conversion to tokenizer.json.

The file is a protocol buffer. The parser that comes with sentencepiece refuses to run with a protobuf older than the
one it was generated with, which differs by release; the fields needed here have not changed since the format was
published (sentencepiece_model.proto).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

BPE = 2
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
_NORMAL, _UNIGRAM = 1, 1
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of the whole
_TEXT, _SCORE, _KIND = 1, 2, 3  # of a piece
_MODEL, _BYTE_FALLBACK, _UNKNOWN_ID = 3, 35, 40  # of the trainer
_CHARACTERS, _DUMMY_PREFIX, _EXTRA_SPACES = 2, 3, 4  # of the normalizer


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary.

    Attributes:
        text: with U+2581 for spaces.
        score: pieces with higher scores are merged first.
        kind: `UNKNOWN`, `CONTROL`, `USER_DEFINED`, `BYTE`, or another for normal pieces.
    """

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class PieceModel:
    """The content of a `tokenizer.model`.

    Attributes:
        pieces: by token id.
        kind: `BPE`, or another.
        unknown: id of the piece for unknown characters.
        byte_fallback: whether these are encoded byte by byte.
        characters: the compiled map that normalizes characters; empty: they aren't normalized.
        dummy_prefix: whether a text gets a leading space.
        collapse_spaces: whether runs of spaces become one, and leading and trailing ones are removed.
    """

    pieces: list[Piece]
    kind: int
    unknown: int
    byte_fallback: bool
    characters: bytes
    dummy_prefix: bool
    collapse_spaces: bool


def read_pieces(content: bytes) -> PieceModel:
    """Read a `tokenizer.model` that sentencepiece has accepted."""
    parts = list(_fields(content))
    trainer, normalizer = (dict(_fields(_last(parts, field))) for field in (_TRAINER, _NORMALIZER))
    characters = normalizer.get(_CHARACTERS, b"")
    assert isinstance(characters, bytes)
    return PieceModel(
        pieces=[_piece(value) for field, value in parts if field == _PIECES and isinstance(value, bytes)],
        kind=int(trainer.get(_MODEL, _UNIGRAM)),
        unknown=int(trainer.get(_UNKNOWN_ID, 0)),
        byte_fallback=bool(trainer.get(_BYTE_FALLBACK, False)),
        characters=characters,
        dummy_prefix=bool(normalizer.get(_DUMMY_PREFIX, True)),
        collapse_spaces=bool(normalizer.get(_EXTRA_SPACES, True)),
    )


def _piece(content: bytes) -> Piece:
    fields = dict(_fields(content))
    text, score = fields[_TEXT], fields.get(_SCORE, bytes(4))
    assert isinstance(text, bytes)
    assert isinstance(score, bytes)
    return Piece(text.decode(), struct.unpack("<f", score)[0], int(fields.get(_KIND, _NORMAL)))


def _last(parts: list[tuple[int, int | bytes]], field: int) -> bytes:
    return next((value for number, value in reversed(parts) if number == field and isinstance(value, bytes)), b"")


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of a message's fields: integers as such, all others as bytes."""
    offset = 0

    def number() -> int:
        nonlocal offset
        value = shift = 0
        while True:
            byte = content[offset]
            offset += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while offset < len(content):
        key = number()
        field, wire = key >> 3, key & 7
        if wire == 0:
            yield field, number()
            continue
        length = {1: 8, 5: 4}.get(wire) or number()
        yield field, content[offset : offset + length]
        offset += length
