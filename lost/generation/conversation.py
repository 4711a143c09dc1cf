"""A conversation with a model: turns in its chat template or, where it has none, a text that both write on."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lost.engine import Engine
from lost.errors import UserError
from lost.generation.continuation import Continuation, begun
from lost.generation.sampler import Sampler
from lost.generation.stopping import ends_of_turn
from lost.tokenizer import Tokenizer
from lost.tokenizer.chat_template import template_of

_ROOM = 4  # an answer may take this part of the positions before turns are dropped for it


class Conversation:
    """Messages of a user and a model by turns.

    Args:
        engine: holds the model.
        tokenizer: the model's.
        sampler: chooses tokens.
        positions: the model's.
        limit: most tokens of an answer.
        stops: texts before any of which an answer ends.
        begin: the token that stands before all, unless the template writes it; None: end-of-text.
        ends: tokens with which an answer ends, beside end-of-text and the template's end of a turn.

    Attributes:
        messages: so far.
        dropped: how many turns, the oldest, the model has no room for any more.
        has_template: whether there are turns; else all messages are one text, lines that follow each other.
        answer: the last one.
        tokens: that question and answer have, with all before them.

    Raises:
        DataError: the tokenizer's chat template isn't valid.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        sampler: Sampler,
        positions: int,
        limit: int,
        stops: Sequence[str] = (),
        begin: int | None = None,
        ends: Iterable[int] = (),
    ) -> None:
        self._engine, self._tokenizer, self._sampler = engine, tokenizer, sampler
        self._positions, self._limit, self._stops = positions, limit, stops
        self._template = template_of(tokenizer) if tokenizer.chat_template else None
        self.has_template = self._template is not None
        self._ends = {*ends, *(ends_of_turn(tokenizer) if self._template else ())}
        self._begin = tokenizer.end_of_text if begin is None else begin
        self.answer: Continuation | None = None
        self.messages: list[dict[str, str]] = []
        self.dropped = self.tokens = 0

    def reset(self) -> None:
        """Begin anew; the random numbers go on."""
        self.messages, self.dropped = [], 0

    def ask(self, text: str) -> Iterator[str]:
        """Return the pieces of the answer to a message; those that are taken stand in the conversation.

        Raises:
            UserError: the message alone is too long; the conversation stays as it was.
            DataError: the chat template refuses it; likewise.
        """
        dropped = self.dropped
        self.messages.append({"role": "user", "content": text})
        try:
            begin = self._with_room()
        except UserError:
            self.messages.pop()
            self.dropped = dropped
            raise
        limit = min(self._limit, self._positions - len(begin))
        self.answer = Continuation(self._engine, self._tokenizer, begin, self._sampler, limit, self._stops, self._ends)
        self.messages.append({"role": "assistant", "content": ""})
        return self._answered(self.answer, len(begin))

    def record(self) -> str:
        """Return the conversation, all of it, as a line that `lost prepare --examples` reads."""
        if self.has_template:
            return json.dumps({"messages": self.messages})
        return json.dumps({"text": _joined(self.messages)})

    def _answered(self, answer: Continuation, begin: int) -> Iterator[str]:
        for piece in answer:
            self.messages[-1]["content"] += piece
            self.tokens = begin + len(answer.tokens)
            yield piece

    def _with_room(self) -> list[int]:
        """Return the tokens before the answer, once the oldest turns are dropped that leave it no room."""
        wanted = min(self._limit, self._positions // _ROOM)
        while True:
            special_tokens = self._template is not None and self._template.special_tokens
            tokens = self._tokenizer.encode(self._text(), special_tokens).tolist()
            tokens = begun(tokens, self._begin, self._tokenizer)
            room = self._positions - len(tokens)
            alone = len(self._read()) == 1
            if room >= wanted or (alone and room > 0):
                return tokens
            if alone:
                raise UserError(
                    f"the message has {len(tokens)} tokens, with what stands before it; expected fewer than "
                    f"model.max_position_embeddings = {self._positions}; shorten it"
                )
            self.dropped += 1

    def _read(self) -> list[dict[str, str]]:
        return self.messages[2 * self.dropped :]

    def _text(self) -> str:
        """Return what the model reads, up to where it writes."""
        return self._template.question(self._read()) if self._template else _joined(self._read())


def _joined(messages: Sequence[Mapping[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)
