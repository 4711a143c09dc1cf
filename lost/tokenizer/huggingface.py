"""Hugging Face's `tokenizer.json`, read by their `tokenizers` library.

The end-of-text token and a chat template come from `tokenizer_config.json` beside it. Padding, truncation and the
tokens that a post-processor would put around a text are left out: documents are packed.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

from lost.errors import DataError
from lost.tokenizer.base import CONFIG, Entry, Tokenizer
from lost.tokenizer.config_file import is_unicode, read_config, read_template, token_text
from lost.tokenizer.growth import check_growth
from lost.tokenizer.spelling import Spelling
from lost.utils.extras import need
from lost.utils.parsing import parse_object

_WELL_KNOWN = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")  # a chat template may mention them


class JsonTokenizer(Tokenizer):
    """A `tokenizer.json`.

    Args:
        content: the file's.
        config: of `tokenizer_config.json`: `eos_token`, and what else is saved with a model.
        source: where it comes from, in messages.

    Raises:
        DataError: it isn't such a file, or doesn't have the token.
    """

    FILE = "tokenizer.json"

    def __init__(self, content: bytes, config: Mapping[str, Any], source: str) -> None:
        tokenizers = need("tokenizers", "tokenizers", f"reading {source}")
        self._end_of_text, self._source = str(config["eos_token"]), source
        with _library(f"{source} is not a tokenizer.json", "the file that Hugging Face's tokenizers write"):
            document = parse_object(content)
            document.update(padding=None, truncation=None)
            check_growth(document)
            self._processor = tokenizers.Tokenizer.from_str(json.dumps(document))
        end_of_text = self._processor.token_to_id(self._end_of_text) if is_unicode(self._end_of_text) else None
        if end_of_text is None:
            raise DataError(
                f"{source} has no token {self._end_of_text!r} to separate documents; expected one that it has; name "
                "it with --end-of-text"
            )
        # Even if it is an ordinary token of the file, text must never be encoded to it.
        self._processor.add_special_tokens([tokenizers.AddedToken(self._end_of_text, special=True, normalized=False)])
        self._find_special(document["model"])
        if end_of_text in self._broken_up(self._end_of_text):  # one character can't be cut
            raise DataError(
                f"{source} encodes the text {self._end_of_text!r} to the token that is to separate documents; expected "
                "one that no text is encoded to; name another with --end-of-text"
            )
        self.end_of_text = end_of_text
        self.vocab_size = max(self._processor.get_vocab(with_added_tokens=True).values()) + 1
        self.chat_template = config.get("chat_template")
        self.files = {self.FILE: content, CONFIG: (json.dumps(dict(config), indent=2) + "\n").encode()}

    @classmethod
    def load(cls, file: Path, content: bytes, end_of_text: str | None) -> "JsonTokenizer":
        """Load a file, with the configuration and chat template beside it.

        Args:
            file: its path.
            content: of it.
            end_of_text: the token that separates documents; None: `eos_token` of `tokenizer_config.json`, and without
                that the first that it has of `<|endoftext|>`, `<|end_of_text|>`, `</s>`, `<eos>`, `<|im_end|>`.

        Raises:
            DataError: no end-of-text token is known, or a file is damaged.
        """
        stored = read_config(file)
        kept = {name: text for name in _NAMED_TOKENS if (text := token_text(stored.get(name)))}
        if end_of_text := end_of_text or kept.get("eos_token") or _well_known(content):
            kept["eos_token"] = end_of_text
        else:
            raise DataError(
                f"{file} doesn't say which token ends a text: {CONFIG} beside it has no eos_token, and it has none "
                f"of {', '.join(_WELL_KNOWN)}; expected one; name it with --end-of-text"
            )
        chat = read_template(file) or stored.get("chat_template")
        # The generic class uses tokenizer.json as it is; a model's own class may rebuild it.
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **kept} | ({"chat_template": chat} if chat else {})
        return cls(content, config, str(file))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file and the end-of-text token, in hexadecimal."""
        return hashlib.sha256(self.files[self.FILE] + self._end_of_text.encode()).hexdigest()

    def entries(self) -> dict[int, Entry]:
        """Return the tokens by id, ascending; gaps are left out, and what can't be told."""
        tokens, added = self._processor.get_vocab(with_added_tokens=True), self._processor.get_added_tokens_decoder()
        spelling, found = Spelling(parse_object(self.files[self.FILE])), {}
        for text, number in sorted(tokens.items(), key=itemgetter(1)):
            if number in self._special or number in self._unknown:
                found[number] = Entry("special", text.encode())
            else:
                known = None if number in added else spelling.entry(text)
                found[number] = known or Entry("text", self._behind_itself(number).encode())
        return {number: each for number, each in found.items() if each.text}

    def _encode(self, texts: Iterable[str], special_tokens: bool) -> Iterable[list[int]]:
        self._processor.encode_special_tokens = not special_tokens  # the library's name for encoding them as text
        for text in texts:
            ids = self._ids(text)
            yield ids if special_tokens or self._special.isdisjoint(ids) else self._broken_up(text)

    def _ids(self, text: str) -> list[int]:
        with self._working():
            (encoding,) = self._processor.encode_batch_fast([text], add_special_tokens=False)  # computes no offsets
        return encoding.ids

    def _broken_up(self, text: str) -> list[int]:
        """Return the ids of text with every special token split after its first character.

        Some models (Unigram, WordLevel) have special tokens among their own pieces, and so find them in text anyway.
        """
        return [token for part in self._inside.split(text) for token in self._ids(part)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens; bytes that make no character become U+FFFD."""
        with self._working():
            return self._processor.decode(list(ids), skip_special_tokens=True)

    def _working(self) -> AbstractContextManager[None]:
        return _library(f"{self._source} can't be worked with", "a tokenizer.json that any text fits")

    def _find_special(self, model: Mapping[str, Any]) -> None:
        """Find the special tokens, except the one for unknown characters, to which text may be encoded."""
        self._unknown = unknown = {model.get("unk_id"), self._processor.token_to_id(model.get("unk_token") or "")}
        added = self._processor.get_added_tokens_decoder()
        tokens = {number: each.content for number, each in added.items() if each.special and number not in unknown}
        self._special = frozenset(tokens)
        splits = (f"(?<={re.escape(text[0])})(?={re.escape(text[1:])})" for text in tokens.values())
        self._inside = re.compile("|".join(splits))


@contextmanager
def _library(problem: str, expected: str) -> Iterator[None]:
    """Turn the library's errors into DataErrors. It raises nothing more specific, and some aren't even an Exception."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        reason = " ".join(str(error).split())
        raise DataError(f"{problem}: {reason:.400}; expected {expected}; use another") from None


def _well_known(content: bytes) -> str | None:
    try:
        added = {token["content"] for token in parse_object(content)["added_tokens"]}
    except (ValueError, KeyError, TypeError):
        return None  # no tokenizer.json, or one without added tokens
    return next((token for token in _WELL_KNOWN if token in added), None)
