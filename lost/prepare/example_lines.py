"""Examples to fine-tune on, from JSON lines as mlx-lm reads them: what is given, and what is to be learned."""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lost.data.loss_mask import EXAMPLE_START, IN_LOSS
from lost.errors import DataError
from lost.prepare.reading.readers import clean, lines
from lost.tokenizer import Tokenizer
from lost.tokenizer.chat_template import Template
from lost.utils.parsing import parse_json

Span = tuple[str, bool]
"""A piece of text, and whether it is to be learned."""
Answers = Literal["last", "all"]
FORMATS = '{"prompt": ..., "completion": ...}, {"messages": [...]} or {"text": ...}'


@dataclass(frozen=True)
class Example:
    """One line.

    Attributes:
        spans: its text, in pieces, of which the last is to be learned.
        templated: whether a template wrote the text, special tokens among it.
        conversation: whether it was made of messages.
        digest: a hash of the line's fields that are read, the same whatever the template.
    """

    spans: tuple[Span, ...]
    templated: bool = False
    conversation: bool = False
    digest: bytes = field(kw_only=True)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(text for text, _ in self.spans)

    @property
    def learned(self) -> str:
        """What of it is to be learned."""
        return "".join(text for text, is_learned in self.spans if is_learned)


def read_examples(paths: Sequence[Path], template: Template, answers: Answers = "last") -> Iterator[Example]:
    """Yield the examples of JSON-lines files, line by line.

    Of a line with a prompt and a completion, or with messages of which the last is the assistant's, the answer is to be
    learned; of one with a text, all of it. A line that has several of these is taken by the first in this order.

    Args:
        paths: the files.
        template: fills in conversations.
        answers: of a conversation with several: the last, or each.

    Raises:
        DataError: a file that can't be read, or a line that is none of these; the message names the line.
    """
    for path in paths:
        for where, line in _lines(path):
            try:
                example = _example(parse_json(line), template, answers)
                yield replace(example, spans=tuple((clean(text), is_learned) for text, is_learned in example.spans))
            except ValueError as error:
                raise DataError(f"{where}: not JSON ({error}); expected one object a line") from None
            except DataError as error:
                raise DataError(f"{where}: {error}") from None


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        yield from lines(path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} can't be read: {error}; expected complete JSON lines (.gz and .zst are unpacked)"
        ) from None


def _example(record: Any, template: Template, answers: Answers) -> Example:
    if not isinstance(record, dict):
        raise DataError(f"a {type(record).__name__}, not an object; expected {FORMATS}")
    tools = record.get("tools")
    if "prompt" in record and "completion" in record:
        prompt, completion = _text(record, "prompt"), _text(record, "completion")
        digest = _digest(prompt, completion, tools)
        spans = _two(*template.completion(prompt, completion, tools))
        return Example(spans, template.special_tokens, digest=digest)
    if "messages" in record:
        messages = record["messages"]
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise DataError('messages is no list of objects; expected [{"role": ..., "content": ...}, ...]')
        if not messages or messages[-1].get("role") != "assistant":
            last = messages[-1].get("role") if messages else None
            raise DataError(f"the last message's role is {last!r}; expected 'assistant', whose answer is to be learned")
        digest = _digest(messages, tools)
        each = answers == "all"
        spans = each_answer(template, messages, tools) if each else _two(*template.split(messages, tools))
        return Example(spans, template.special_tokens, conversation=True, digest=digest)
    if "text" in record:
        text = _text(record, "text")
        return Example(_two("", text), digest=_digest(text))
    raise DataError(f"the keys are {', '.join(record) or 'none'}; expected {FORMATS}")


def _two(prompt: str, completion: str) -> tuple[Span, ...]:
    return (prompt, False), (completion, True)


def each_answer(template: Template, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> tuple[Span, ...]:
    """Return a conversation with each answer to be learned, after what it would be asked with.

    Raises:
        DataError: the template writes earlier turns otherwise once others follow, or doesn't take the conversation.
    """
    spans: list[Span] = []
    so_far = ""
    for number, message in enumerate(messages, 1):
        if message.get("role") != "assistant":
            continue
        before, answer = template.split(messages[:number], tools)
        if not before.startswith(so_far):
            raise DataError(
                "the tokenizer's chat template changes an answer once others follow, so that it can't be learned where "
                "it stands; expected a template that only appends; use --answers last"
            )
        spans += _two(before[len(so_far) :], answer)
        so_far = before + answer
    return tuple(spans)


def _digest(*fields: Any) -> bytes:
    return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=16).digest()


def _text(record: dict[str, Any], key: str) -> str:
    if not isinstance(record[key], str):
        raise DataError(f"{key} = {record[key]!r:.40}; expected text")
    return str(record[key])


def encode_example(example: Example, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of an example, which end with end-of-text, and their marks, both (n,).

    Its spans are encoded as one text, as mlx-lm does, where that gives the tokens of what comes before each first; else
    each of them alone. So what precedes an answer is what that alone would be encoded to. An added end-of-text is
    learned only if the last answer has none of its own, which then says where it ends.
    """

    def encoded(text: str) -> np.ndarray:
        return tokenizer.encode(text, example.templated)

    ids = encoded(example.text)
    texts = [text for text, _ in example.spans]
    before = [encoded(text) for text in accumulate(texts[:-1])]
    if all(np.array_equal(ids[: len(each)], each) for each in before):
        ends = [*map(len, before), len(ids)]
    else:
        alone = [encoded(text) for text in texts]
        ids, ends = np.concatenate(alone), [*accumulate(map(len, alone))]
    marks = np.zeros(len(ids), np.int64)
    for begin, end, (_, is_learned) in zip([0, *ends], ends, example.spans, strict=False):
        marks[begin:end] = IN_LOSS if is_learned else 0
    if not len(ids) or ids[-1] != tokenizer.end_of_text:
        ended = (ids[[0, *ends][-2] :] == tokenizer.end_of_text).any()
        ids, marks = np.append(ids, tokenizer.end_of_text), np.append(marks, 0 if ended else IN_LOSS)
    marks[0] |= EXAMPLE_START
    return ids, marks
