"""The smaller tokenizer that encodes a text as before: what the text needs, and what makes every text encodable."""

from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
from typing import Protocol

import numpy as np

from lost.errors import DataError, MissingPackageError
from lost.planning.alignment import MULTIPLES
from lost.prepare.sources import Sources
from lost.reshape.vocabulary.of_json import JsonVocabulary
from lost.reshape.vocabulary.of_pieces import PieceVocabulary
from lost.reshape.vocabulary.rows import Rows, check_gaps, selected
from lost.tokenizer import Tokenizer
from lost.tokenizer.chat_template import template_of
from lost.tokenizer.comparison import AWKWARD
from lost.tokenizer.huggingface import JsonTokenizer
from lost.tokenizer.sentencepiece import PieceTokenizer

_MULTIPLE = max(MULTIPLES.values())  # of tokens that stay: fast products


class Prunable(Protocol):
    """A vocabulary that can be had with fewer tokens."""

    @property
    def always(self) -> Set[int]:
        """The tokens that every text may need, and those that are no text."""

    def steps_to(self, number: int) -> Set[int]:
        """Return the tokens that make one, itself among them."""

    def pruned(self, kept: Set[int]) -> tuple[Tokenizer, list[int]]:
        """Return the tokenizer of these tokens, numbered anew, and their old ids in the new order."""


def prune(tokenizer: Tokenizer, text: Sources, ends: Sequence[int] = ()) -> tuple[Tokenizer, Rows]:
    """Return the tokenizer that keeps what a text needs, and the rows of a model for it.

    It encodes this text to the same tokens, and every other one to some that decode to the same text. Special and added
    tokens stay, single bytes or, where a vocabulary has no such, single characters, and what its chat template writes.
    Some more stay, so that their number is a multiple of 8.

    Args:
        tokenizer: sentencepiece's or Hugging Face's.
        text: read twice.
        ends: of texts, which stay too; ids without a token are none.

    Raises:
        DataError: there is no text, or it needs all tokens; or the tokenizer is of a kind that isn't pruned.
        UnreachableError: the text can't be read.
    """
    check_gaps(tokenizer)
    vocabulary, entries = _prunable(tokenizer), tokenizer.entries()
    used = _used(tokenizer, text)
    kept = {tokenizer.end_of_text, *vocabulary.always}
    for number in {*used, *_of_template(tokenizer), *entries.keys() & {*ends}}:
        kept |= vocabulary.steps_to(number)
    for number in entries:
        if len(kept) % _MULTIPLE == 0:
            break
        more = kept | vocabulary.steps_to(number)
        kept = more if len(more) <= len(kept) + -len(kept) % _MULTIPLE else kept
    if kept >= entries.keys():
        raise DataError(
            f"the text needs all {len(entries):,} tokens of the vocabulary (it is made of {len(used):,}; others lead "
            "to these, or must stay); expected less text, such as is like what the model will read; name other text"
        )
    pruned, order = vocabulary.pruned(kept)
    _check(tokenizer, pruned, order, text)
    return pruned, selected(order)


def _prunable(tokenizer: Tokenizer) -> Prunable:
    if isinstance(tokenizer, PieceTokenizer):
        return PieceVocabulary(tokenizer)
    if isinstance(tokenizer, JsonTokenizer):
        return JsonVocabulary(tokenizer)
    raise DataError(
        f"the model's tokenizer is of another kind, {tokenizer.FILE}; expected {PieceTokenizer.FILE} or "
        f"{JsonTokenizer.FILE}; its vocabulary can't be pruned"
    )


def _used(tokenizer: Tokenizer, text: Sources) -> list[int]:
    """Return the tokens that a text is made of."""
    used = np.zeros(tokenizer.vocab_size, bool)
    for document in text.documents():
        used[tokenizer.encode(document)] = True
    if not used.any():
        raise DataError(
            f"{', '.join(map(str, text.paths))} holds no text, and so needs no token; expected some such as the model "
            "will read; name other text"
        )
    return np.flatnonzero(used).tolist()


def _of_template(tokenizer: Tokenizer) -> Iterable[int]:
    """Return the tokens that its chat template writes around messages."""
    if not tokenizer.chat_template:
        return []
    with suppress(DataError, MissingPackageError):  # a template that can't be filled in here
        template = template_of(tokenizer)
        texts = template.split([{"role": "user", "content": "?"}, {"role": "assistant", "content": "."}])
        return tokenizer.encode("".join(texts), template.special_tokens).tolist()
    return []


def _check(before: Tokenizer, after: Tokenizer, order: Sequence[int], text: Sources) -> None:
    """See that a pruned tokenizer does what was promised.

    Raises:
        DataError: it doesn't.
    """
    old = np.array(order)
    for document in text.documents():
        if not np.array_equal(old[after.encode(document)], before.encode(document)):
            raise _differs(document)
    for awkward in AWKWARD:
        if after.decode(after.encode(awkward).tolist()) != before.decode(before.encode(awkward).tolist()):
            raise _differs(awkward)


def _differs(text: str) -> DataError:
    return DataError(
        f"with fewer tokens the tokenizer would read {text[:40]!r}... as another text or in other pieces; expected one "
        "whose tokens don't depend on those that go; its vocabulary can't be pruned"
    )
