"""Pruning of Hugging Face's tokenizer.json: entries and merges go, what else the file says stays."""

import copy
import json
import math
from collections.abc import Iterator, Set
from typing import Any

from lost.errors import DataError
from lost.reshape.vocabulary.merging import steps_to
from lost.tokenizer import Tokenizer
from lost.tokenizer.base import CONFIG
from lost.tokenizer.huggingface import JsonTokenizer
from lost.tokenizer.sentencepiece import SPACE
from lost.tokenizer.spelling import BYTE_PIECE
from lost.utils.extras import need
from lost.utils.parsing import parse_object

_MARKS = ("continuing_subword_prefix", "end_of_word_suffix")


class JsonVocabulary:
    """The entries of a tokenizer.json.

    Args:
        tokenizer: read from it.

    Raises:
        DataError: it merges in a way that isn't followed here.
    """

    def __init__(self, tokenizer: JsonTokenizer) -> None:
        self._tokenizer = tokenizer
        library = need("tokenizers", "tokenizers", "pruning a tokenizer.json")
        # As the library writes it: earlier versions wrote merges as texts, and left out the type of the model.
        self._document = parse_object(library.Tokenizer.from_str(tokenizer.files[tokenizer.FILE].decode()).to_str())
        self._model: dict[str, Any] = self._document["model"]
        self._kind = self._model["type"]
        marks = [self._model[name] for name in _MARKS if self._model.get(name)]
        if self._kind == "BPE" and marks:
            raise DataError(
                f"the tokenizer's pieces are written with {marks[0]!r} inside or at the end of words; expected BPE of "
                "bytes or of sentencepiece's pieces, Unigram, WordPiece or WordLevel; such a vocabulary isn't pruned"
            )
        if self._kind == "Unigram":
            self._numbers = {text: number for number, (text, _) in enumerate(self._model["vocab"])}
        else:
            self._numbers = dict(self._model["vocab"])
        self._texts = {number: text for text, number in self._numbers.items()}
        self._ranks = {tuple(pair): place for place, pair in enumerate(self._model.get("merges", ()))}

    @property
    def always(self) -> Set[int]:
        """The entries that every text may need, and those that are no text."""
        found = {each["id"] for each in self._document["added_tokens"]} | {self._tokenizer.end_of_text}
        found |= {self._numbers[text] for text in (self._model.get("unk_token"), SPACE) if text in self._numbers}
        by_byte, inside = self._model.get("byte_fallback"), self._model.get("continuing_subword_prefix") or ""
        for text, number in self._numbers.items():
            if BYTE_PIECE.fullmatch(text) if by_byte else len(text.removeprefix(inside)) == 1:
                found.add(number)
        if self._kind == "Unigram":  # an unknown character's score is below the lowest
            scores = [score for _, score in self._model["vocab"]]
            found |= {scores.index(min(scores)), self._model["unk_id"]} - {None}
        return found | {ids[place] for ids, place in _named_behind(self._document["post_processor"])}

    def steps_to(self, number: int) -> Set[int]:
        """Return the entries that make one, itself among them."""
        if self._kind != "BPE" or number not in self._texts:
            return {number}
        made = steps_to(self._texts[number], lambda *pair: self._ranks.get(pair, math.inf))
        return {self._numbers[text] for text in made if text in self._numbers} | {number}

    def pruned(self, kept: Set[int]) -> tuple[Tokenizer, list[int]]:
        """Return the tokenizer of these entries, and their old ids in the new order: those of the model come first."""
        order = sorted(kept, key=lambda number: (number not in self._texts, number))
        places = {old: new for new, old in enumerate(order)}
        texts = {self._texts[number]: place for number, place in places.items() if number in self._texts}
        document = copy.deepcopy(self._document)
        model = document["model"]
        if self._kind == "Unigram":
            model["vocab"] = [self._model["vocab"][number] for number in order if number in self._texts]
            model["unk_id"] = places.get(model["unk_id"])
        else:
            model["vocab"] = texts
        if self._kind == "BPE":
            model["merges"] = [pair for pair in self._model["merges"] if texts.keys() >= {*pair, "".join(pair)}]
        for token in document["added_tokens"]:
            token["id"] = places[token["id"]]
        for ids, place in _named_behind(document["post_processor"]):
            ids[place] = places[ids[place]]
        config = parse_object(self._tokenizer.files[CONFIG])
        return JsonTokenizer(json.dumps(document).encode(), config, "the pruned tokenizer"), order


def _named_behind(step: dict[str, Any] | None) -> Iterator[tuple[list[Any], int]]:
    """Yield where a post-processor, which puts tokens around a text, has their ids."""
    step = step or {}
    for inner in step.get("processors", ()):
        yield from _named_behind(inner)
    for token in step.get("special_tokens", {}).values():
        yield from ((token["ids"], place) for place in range(len(token["ids"])))
    yield from ((step[name], 1) for name in ("sep", "cls") if name in step)
