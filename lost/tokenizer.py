"""Tokenizers: sentencepiece BPE with byte fallback, so that text goes to ids and back unchanged.

The one exception is sentencepiece's own sign for a space, U+2581, which comes back as a space.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from lost.errors import DataError

FILE = "tokenizer.model"
_LONGEST = 1 << 20  # characters encoded at once: longer documents are cut after a line's end, to bound the memory


class Tokenizer:
    """A sentencepiece model, with an end-of-text token that separates documents."""

    def __init__(self, model: bytes, source: str) -> None:
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError:
            raise DataError(
                f"{source} is not a sentencepiece model; expected a tokenizer.model, as `lost prepare` or the "
                "sentencepiece trainer writes it"
            ) from None
        self.model = model
        self.end_of_text: int = self._processor.eos_id()
        self.vocab_size: int = self._processor.vocab_size()
        if self.end_of_text < 0:
            raise DataError(
                f"{source} has no end-of-text token (eos), which separates documents; expected a model trained with "
                "eos_id >= 0; train one anew by leaving --tokenizer out"
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model, in hexadecimal."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one text as int64, end-of-text not added."""
        return np.array([token for ids in self._encode(list(_parts(text))) for token in ids], np.int64)

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Return the ids of all texts as int64, each followed by end-of-text."""
        parts: list[str] = []
        last_parts = set()
        for text in texts:
            parts.extend(_parts(text))
            last_parts.add(len(parts) - 1)
        tokens: list[int] = []
        for number, ids in enumerate(self._encode(parts)):
            tokens += ids
            if number in last_parts:
                tokens.append(self.end_of_text)
        return np.array(tokens, np.int64)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self._processor.encode(texts, num_threads=os.cpu_count() or 1)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; bytes that make no character become U+FFFD."""
        return self._processor.decode(list(ids))

    def stream(self, ids: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        """Yield the text of ids as they arrive, holding back bytes that don't make a character yet.

        Args:
            ids: the tokens.
            after: what stands before them: some tokenizers drop a space at the beginning of what they decode.
        """
        seen = list(after)
        shown = self.decode(seen)
        for token in ids:
            seen.append(token)
            text = self.decode(seen)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(shown) :]
                shown = text
        yield self.decode(seen)[len(shown) :]

    def save(self, folder: Path) -> None:
        """Write `tokenizer.model` into a folder."""
        (folder / FILE).write_bytes(self.model)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.model`, or the one in a folder.

    Raises:
        DataError: there is none, or it is something else.
    """
    file = path / FILE if path.is_dir() else path
    try:
        return Tokenizer(file.read_bytes(), str(file))
    except OSError:
        raise DataError(
            f"no tokenizer at {file}; expected a sentencepiece model; prepare the data again with `lost prepare`, or "
            "name the tokenizer's file"
        ) from None


def train_tokenizer(lines: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a BPE tokenizer with byte fallback.

    Nothing is normalised and no space is put in front, so that decoding gives back the text to the byte, and the
    Hugging Face conversion gives the same ids.

    Raises:
        DataError: the text is too small for such a vocabulary.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            max_sentence_length=1 << 16,
            unk_id=0,
            eos_id=1,
            bos_id=-1,  # one separator is enough, and an untrained one would be used as a prefix by evaluators
            pad_id=-1,
            minloglevel=2,
            num_threads=os.cpu_count() or 1,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rpartition("] ")[2]
        raise DataError(
            f"--vocab-size {vocab_size} doesn't suit this text: {reason} Expected at least 300 entries (256 are "
            "single bytes) and no more than the text has pieces for; choose a smaller vocabulary or add text"
        ) from None
    return Tokenizer(model.getvalue(), "the tokenizer trained here")


def _parts(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _LONGEST:
        end = text.rfind("\n", start, start + _LONGEST) + 1 or start + _LONGEST
        yield text[start:end]
        start = end
    yield text[start:]
