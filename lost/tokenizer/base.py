"""Tokenizers in common: text to ids and back, documents separated by the end-of-text token."""

import copy
import json
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from lost.storage.nofollow import write_new

CONFIG = "tokenizer_config.json"
_CONTEXT = 32  # tokens that decide the text of the next one, and more: of some decoders the first loses its space
_LONGEST = 1 << 20  # characters encoded at once: longer documents are cut after a line's end, to bound the memory


@dataclass(frozen=True)
class Entry:
    """A token, comparable across vocabularies of any kind.

    Attributes:
        kind: `text`; `byte`, which stands for a byte of characters that have no token; `special`, which no text has.
        text: what it adds to a text that goes on, in UTF-8; of a special one its name.
    """

    kind: Literal["text", "byte", "special"]
    text: bytes


class Tokenizer(ABC):
    """Text to ids and back.

    Attributes:
        FILE: the name of the file that decides the ids.
        end_of_text: the token that separates documents. Text never turns into it, whatever is written there.
        vocab_size: one more than the highest id, added tokens included.
        files: all that a folder holds of it, names and contents.
        chat_template: the Jinja template of conversations; None: it has none.
    """

    FILE: ClassVar[str]
    end_of_text: int
    vocab_size: int
    files: Mapping[str, bytes]
    chat_template: Any = None

    @classmethod
    @abstractmethod
    def load(cls, file: Path, content: bytes, end_of_text: str | None) -> "Tokenizer":
        """Make one of a file, with what stands beside it.

        Args:
            file: its path.
            content: of it.
            end_of_text: the token that is to separate documents; None: the one that the file names.

        Raises:
            DataError: it isn't such a file, or has no end-of-text token.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of what decides the ids, in hexadecimal."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens; bytes that make no character become U+FFFD."""

    @abstractmethod
    def _encode(self, texts: Iterable[str], special_tokens: bool) -> Iterable[list[int]]:
        """Return the ids of each text, in turn; one core does it: whoever has more to encode starts more processes."""

    def entries(self) -> dict[int, Entry]:
        """Return the tokens by id, ascending; one whose text can't be told is left out."""
        texts = {number: self._behind_itself(number) for number in range(self.vocab_size)}
        return {number: Entry("text", text.encode()) for number, text in texts.items() if text}

    def _behind_itself(self, number: int) -> str:
        """Return what a token adds to a text that goes on; "" if that is unknown: some decoders change beginnings."""
        text = self.decode([number, number])[len(self.decode([number])) :]
        return "" if "\N{REPLACEMENT CHARACTER}" in text else text

    def encode(self, text: str, special_tokens: bool = False) -> np.ndarray:
        """Return the ids of one text as int64, end-of-text not added.

        Args:
            text: any.
            special_tokens: whether special tokens that are written out in it are meant, as in a filled-in chat
                template. Otherwise they are text like any other.
        """
        tokens = array("q")
        for ids in self._encode(_parts(text), special_tokens):
            tokens.extend(ids)
        return np.frombuffer(tokens, np.int64)

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Return the ids of all texts as int64, each followed by end-of-text."""
        tokens = array("q")  # a list of Python's numbers takes several times as much
        for text in texts:
            for ids in self._encode(_parts(text), special_tokens=False):
                tokens.extend(ids)
            tokens.append(self.end_of_text)
        return np.frombuffer(tokens, np.int64)

    def stream(self, ids: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        """Yield the text of ids as they arrive, holding back bytes that don't make a character yet.

        Args:
            ids: the tokens.
            after: what stands before them: some tokenizers drop a space at the beginning of what they decode.
        """
        seen = list(after)[-_CONTEXT:]
        shown = self.decode(seen)
        for token in ids:
            seen.append(token)
            text = self.decode(seen)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(shown) :]
                shown = text
                if len(seen) > 2 * _CONTEXT:
                    seen = seen[-_CONTEXT:]
                    shown = self.decode(seen)
        yield self.decode(seen)[len(shown) :]

    def with_chat_template(self, template: str) -> "Tokenizer":
        """Return the same tokenizer, whose files also hold a chat template: in `tokenizer_config.json`."""
        made = copy.copy(self)
        config = {**json.loads(self.files.get(CONFIG, b"{}")), "chat_template": template}
        made.chat_template = template
        made.files = {**self.files, CONFIG: (json.dumps(config, indent=2) + "\n").encode()}
        return made

    def save(self, folder: Path) -> None:
        """Write its files into a folder."""
        for name, content in self.files.items():
            write_new(folder / name, content)


def _parts(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _LONGEST:
        end = text.rfind("\n", start, start + _LONGEST) + 1 or start + _LONGEST
        yield text[start:end]
        start = end
    yield text[start:]
