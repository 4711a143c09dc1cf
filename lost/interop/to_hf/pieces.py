"""Parsing of a sentencepiece model's file, for conversion to tokenizer.json, and writing of one with fewer pieces.

The file is a protocol buffer. The parser that comes with sentencepiece refuses to run with a protobuf older than the
one it was generated with, which differs by release; the fields needed here have not changed since the format was
published (sentencepiece_model.proto).
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_PIECES, _TRAINER, _NORMALIZER, _SELF_TEST = 1, 2, 3, 4  # fields of the whole
_TEXT, _SCORE, _KIND = 1, 2, 3  # of a piece
_MODEL, _VOCAB_SIZE, _BYTE_FALLBACK, _UNKNOWN_ID = 3, 4, 35, 40  # of the trainer
_IDS = range(_UNKNOWN_ID, 44)  # of unknown, begin, end and padding, likewise
_CHARACTERS, _DUMMY_PREFIX, _EXTRA_SPACES = 2, 3, 4  # of the normalizer


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary.

    Attributes:
        text: with U+2581 for spaces.
        score: pieces with higher scores are merged first.
        kind: `NORMAL`, `UNKNOWN`, `CONTROL`, `USER_DEFINED`, `UNUSED` or `BYTE`.
    """

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class PieceModel:
    """The content of a `tokenizer.model`.

    Attributes:
        pieces: by token id.
        kind: `UNIGRAM`, `BPE`, or another.
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
        kind=int(trainer.get(_MODEL, UNIGRAM)),
        unknown=int(trainer.get(_UNKNOWN_ID, 0)),
        byte_fallback=bool(trainer.get(_BYTE_FALLBACK, False)),
        characters=characters,
        dummy_prefix=bool(normalizer.get(_DUMMY_PREFIX, True)),
        collapse_spaces=bool(normalizer.get(_EXTRA_SPACES, True)),
    )


def with_pieces(content: bytes, kept: Sequence[int]) -> bytes:
    """Return a `tokenizer.model` that keeps these pieces, by their ids, in this order, and what else the file says."""
    parts = [(field, value) for field, value in _fields(content) if isinstance(value, bytes) and field != _SELF_TEST]
    pieces = [value for field, value in parts if field == _PIECES]
    trainer = _last(parts, _TRAINER)
    places = {old: new for new, old in enumerate(kept)}
    numbers = {_VOCAB_SIZE: len(kept)}
    numbers |= {field: places[value] for field, value in _fields(trainer) if field in _IDS and value in places}
    changed = trainer + b"".join(_varint(field << 3) + _varint(value) for field, value in numbers.items())  # last wins
    rest = [pair for pair in parts if pair[0] not in (_PIECES, _TRAINER)]
    whole = [*((_PIECES, pieces[number]) for number in kept), (_TRAINER, changed), *rest]
    return b"".join(_varint(field << 3 | 2) + _varint(len(value)) + value for field, value in whole)


def _varint(number: int) -> bytes:
    *high, last = (number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7))
    return bytes([*(part | 0x80 for part in high), last])


def _piece(content: bytes) -> Piece:
    fields = dict(_fields(content))
    text, score = fields[_TEXT], fields.get(_SCORE, bytes(4))
    assert isinstance(text, bytes)
    assert isinstance(score, bytes)
    return Piece(text.decode(), struct.unpack("<f", score)[0], int(fields.get(_KIND, NORMAL)))


def _last(parts: Sequence[tuple[int, int | bytes]], field: int) -> bytes:
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
