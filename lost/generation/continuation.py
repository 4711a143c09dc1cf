"""A text that a model writes: tokens of an engine, as pieces of text, up to an end."""

from collections.abc import Iterator, Sequence
from typing import Literal

from lost.engine import Engine
from lost.generation.sampler import Sampler
from lost.generation.stopping import until
from lost.tokenizer import Tokenizer


class Continuation:
    """The continuation of a prompt, generated while it is iterated over.

    Args:
        engine: holds the model.
        tokenizer: the model's.
        prompt: ids of what comes before.
        sampler: chooses tokens; it begins a new text.
        limit: most tokens to generate; the model has positions for them.
        stops: texts before any of which it ends.

    Attributes:
        tokens: generated so far, those of a stop text among them.
        ended: by end-of-text, by a stop text, or by the limit.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        sampler: Sampler,
        limit: int,
        stops: Sequence[str] = (),
    ) -> None:
        self._engine, self._tokenizer, self._prompt = engine, tokenizer, list(prompt)
        self._sampler, self._limit, self._stops = sampler, limit, stops
        self.tokens: list[int] = []
        self.ended: Literal["end_of_text", "stop", "length"] = "stop"
        sampler.begin(self._prompt)

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of text."""
        return until(self._tokenizer.stream(self._generated(), self._prompt), self._stops)

    def _generated(self) -> Iterator[int]:
        # The model may have more entries than its tokenizer, which are untrained and have no meaning.
        entries = self._tokenizer.vocab_size
        for token in self._engine.generate(self._prompt, lambda logits: self._sampler(logits[:entries]), self._limit):
            if token == self._tokenizer.end_of_text:
                self.ended = "end_of_text"
                return
            self.tokens.append(token)
            yield token
        self.ended = "length"
