"""Examples to fine-tune on, from JSON lines as mlx-lm reads them: a prompt, and a completion that is to be learned."""

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lost.data.loss_mask import EXAMPLE_START, IN_LOSS
from lost.errors import DataError
from lost.prepare.reading.readers import clean, lines
from lost.tokenizer import Tokenizer
from lost.tokenizer.chat_template import Template
from lost.utils.parsing import parse_json

FORMATS = '{"prompt": ..., "completion": ...}, {"messages": [...]} or {"text": ...}'


@dataclass(frozen=True)
class Example:
    """One line.

    Attributes:
        prompt: the text before what is to be learned; may be empty.
        completion: the text that is to be learned.
        templated: whether a template wrote the text, special tokens among it.
        conversation: whether it was made of messages.
        digest: a hash of the line's fields that are read, the same whatever the template.
    """

    prompt: str
    completion: str
    templated: bool = False
    conversation: bool = False
    digest: bytes = field(kw_only=True)


def read_examples(paths: Sequence[Path], template: Template) -> Iterator[Example]:
    """Yield the examples of JSON-lines files, line by line.

    Of a line with a prompt and a completion, or with messages of which the last is the assistant's, the answer is to be
    learned; of one with a text, all of it. A line that has several of these is taken by the first in this order.

    Raises:
        DataError: a file that can't be read, or a line that is none of these; the message names the line.
    """
    for path in paths:
        for where, line in _lines(path):
            try:
                example = _example(parse_json(line), template)
                yield replace(example, prompt=clean(example.prompt), completion=clean(example.completion))
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


def _example(record: Any, template: Template) -> Example:
    if not isinstance(record, dict):
        raise DataError(f"a {type(record).__name__}, not an object; expected {FORMATS}")
    tools = record.get("tools")
    if "prompt" in record and "completion" in record:
        prompt, completion = _text(record, "prompt"), _text(record, "completion")
        digest = _digest(prompt, completion, tools)
        return Example(*template.completion(prompt, completion, tools), template.special_tokens, digest=digest)
    if "messages" in record:
        messages = record["messages"]
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise DataError('messages is no list of objects; expected [{"role": ..., "content": ...}, ...]')
        if not messages or messages[-1].get("role") != "assistant":
            last = messages[-1].get("role") if messages else None
            raise DataError(f"the last message's role is {last!r}; expected 'assistant', whose answer is to be learned")
        digest = _digest(messages, tools)
        return Example(*template.split(messages, tools), template.special_tokens, conversation=True, digest=digest)
    if "text" in record:
        text = _text(record, "text")
        return Example("", text, digest=_digest(text))
    raise DataError(f"the keys are {', '.join(record) or 'none'}; expected {FORMATS}")


def _digest(*fields: Any) -> bytes:
    return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=16).digest()


def _text(record: dict[str, Any], key: str) -> str:
    if not isinstance(record[key], str):
        raise DataError(f"{key} = {record[key]!r:.40}; expected text")
    return str(record[key])


def encode_example(example: Example, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of an example, which end with end-of-text, and their marks, both (n,).

    Prompt and completion are encoded as one text, as mlx-lm does, where that gives the tokens of the prompt first;
    else each of them alone. So what precedes the completion is always what the prompt alone would be encoded to. An
    added end-of-text is learned only if the completion has none of its own, which then says where it ends.
    """
    prompt = tokenizer.encode(example.prompt, example.templated)
    ids = tokenizer.encode(example.prompt + example.completion, example.templated)
    if len(prompt) and not np.array_equal(ids[: len(prompt)], prompt):
        ids = np.concatenate([prompt, tokenizer.encode(example.completion, example.templated)])
    marks = np.where(np.arange(len(ids)) < len(prompt), 0, IN_LOSS)
    if not len(ids) or ids[-1] != tokenizer.end_of_text:
        ended = (ids[len(prompt) :] == tokenizer.end_of_text).any()
        ids, marks = np.append(ids, tokenizer.end_of_text), np.append(marks, 0 if ended else IN_LOSS)
    marks[0] |= EXAMPLE_START
    return ids, marks
