"""A text that a model writes: tokens of an engine, as pieces of text, up to an end."""

from collections.abc import Collection, Iterator, Sequence
from typing import Literal

from lost.engine import Engine
from lost.generation.sampler import Sampler
from lost.generation.stopping import special_token, until
from lost.tokenizer import Tokenizer


class Continuation:
    """The continuation of a prompt, generated while it is iterated over.

    Args:
        engine: holds the model.
        tokenizer: the model's.
        prompt: ids of what comes before, the first one that texts begin with.
        sampler: chooses tokens; it begins a new text.
        limit: most tokens to generate; the model has positions for them.
        stops: texts before any of which it ends; those that are special tokens, which no text has, as such.
        ends: tokens with which it ends, beside end-of-text, as a chat template's end of a turn.

    Attributes:
        tokens: generated so far, those of a stop text among them.
        ended: by end-of-text or what else ends it, by a stop text, or by the limit.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        sampler: Sampler,
        limit: int,
        stops: Sequence[str] = (),
        ends: Collection[int] = (),
    ) -> None:
        self._engine, self._tokenizer, self._prompt = engine, tokenizer, list(prompt)
        self._sampler, self._limit, self._stops = sampler, limit, stops
        self._ends = {tokenizer.end_of_text, *ends}
        self._stop_tokens = {token for stop in stops if (token := special_token(tokenizer, stop)) is not None}
        self.tokens: list[int] = []
        self.ended: Literal["end_of_text", "stop", "length"] = "stop"
        sampler.begin(self._prompt[1:])  # what begins all texts isn't repeated where it ends this one

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of text."""
        return until(self._tokenizer.stream(self._generated(), self._prompt), self._stops)

    def _generated(self) -> Iterator[int]:
        # The model may have more entries than its tokenizer, which are untrained and have no meaning.
        entries = self._tokenizer.vocab_size
        for token in self._engine.generate(self._prompt, lambda logits: self._sampler(logits[:entries]), self._limit):
            if token in self._ends:
                self.ended = "end_of_text"
                return
            self.tokens.append(token)
            if token in self._stop_tokens:
                return
            yield token
        self.ended = "length"


def begun(tokens: list[int], begin: int, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a text after the one that begins it, which a template of others may have written already.

    Args:
        tokens: of the text.
        begin: end-of-text, which stands before whatever was learned from, or what an imported model has learned.
        tokenizer: the model's.
    """
    written = begin != tokenizer.end_of_text and tokens[:1] == [begin]
    return tokens if written else [begin, *tokens]
