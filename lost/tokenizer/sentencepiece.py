"""Sentencepiece models. Those trained here are BPE with byte fallback, which encode and decode text losslessly.

The one exception is sentencepiece's own sign for a space, U+2581, which is decoded as a space.
"""

import copy
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from lost.errors import DataError
from lost.storage.nofollow import DOCUMENT_BYTES, read_inside
from lost.tokenizer.base import CONFIG, Entry, Tokenizer
from lost.tokenizer.chat_template import PLAIN
from lost.tokenizer.config_file import read_config, token_text
from lost.utils.machine import cores
from lost.utils.parsing import parse_object

ADDED = "added_tokens.json"  # where transformers keeps tokens that a model doesn't have
SPACE = "\u2581"  # sentencepiece's sign for a space


class PieceTokenizer(Tokenizer):
    """A sentencepiece model, whose end of sentence (eos) is the end-of-text token. Text never encodes to controls.

    Args:
        model: the file's content.
        source: where it comes from, in messages.

    Raises:
        DataError: it isn't such a model, or has no end-of-text token.
    """

    FILE = "tokenizer.model"

    def __init__(self, model: bytes, source: str) -> None:
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
            self._processor.id_to_piece(list(range(self._processor.vocab_size())))  # all of them are UTF-8
        except (RuntimeError, UnicodeDecodeError):
            raise DataError(
                f"{source} is not a sentencepiece model; expected a tokenizer.model, as `lost prepare` or the "
                "sentencepiece trainer writes it"
            ) from None
        self.files = {self.FILE: model}
        self.end_of_text = self._processor.eos_id()
        self.begin_of_text: int | None = None  # the token that other programs put before a text; None: they put none
        if self._processor.bos_id() >= 0:
            self.begin_of_text = self._processor.bos_id()
        self.vocab_size = self._processor.vocab_size()
        if self.end_of_text < 0:
            raise DataError(
                f"{source} has no end-of-text token (eos), which separates documents; expected a model trained with "
                "eos_id >= 0; leave --tokenizer out to train a new one"
            )

    @classmethod
    def load(cls, file: Path, content: bytes, end_of_text: str | None) -> Tokenizer:
        """Load a file; of a template beside it only ours is read, the others' need tokens that no text encodes to.

        Raises:
            DataError: it isn't such a model, files beside it add tokens to it, or `end_of_text` is given.
        """
        if end_of_text is not None:
            raise DataError(
                f"--end-of-text {end_of_text}: {file} is a sentencepiece model, which says itself what its end-of-text "
                "token is; expected the option with a tokenizer.json only; leave it out"
            )
        made, config = cls(content, str(file)), read_config(file)
        made._check_beside(file)
        made._begin_as(config)
        return made.with_chat_template(PLAIN) if config.get("chat_template") == PLAIN else made

    def _begin_as(self, config: Mapping[str, Any]) -> None:
        """Begin texts as the file beside the model says, which a checkpoint keeps."""
        said = {key: config[key] for key in ("bos_token", "add_bos_token") if key in config}
        if said:
            self.files = {**self.files, CONFIG: (json.dumps(said, indent=2) + "\n").encode()}
        if "bos_token" in said:
            named = token_text(said["bos_token"])
            number = self.end_of_text if named is None else self._processor.piece_to_id(named)
            # What the model doesn't have is to it the token for unknown characters.
            self.begin_of_text = number if self._processor.id_to_piece(number) == named else None
        if said.get("add_bos_token") is False:
            self.begin_of_text = None

    def beginning_with_nothing(self) -> "PieceTokenizer":
        """Return the same tokenizer, whose texts no other program puts a token before."""
        made = copy.copy(self)
        made.begin_of_text = None
        return made

    def _check_beside(self, file: Path) -> None:
        """Refuse a model to which the files beside it add tokens, or another end of a text.

        A token for padding may be missing: no text has it.
        """
        config, ours = read_config(file), self._processor.id_to_piece(self.end_of_text)
        end, listed = token_text(config.get("eos_token")) or ours, config.get("added_tokens_decoder")
        named = [*_added(file), *map(token_text, listed.values() if isinstance(listed, dict) else ())]
        known = {*self._processor.id_to_piece(list(range(self.vocab_size))), token_text(config.get("pad_token")), None}
        added = [each for each in named if each not in known]
        if end == ours and not added:
            return
        what = f"add the token {added[0]}" if end == ours else f"end a text with {end}"
        raise DataError(
            f"{file} is a sentencepiece model that ends a text with {ours}, and the files beside it {what}; expected "
            "what the model itself has, or a tokenizer.json, which has all of it; write one into the folder with "
            "transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model, in hexadecimal."""
        return hashlib.sha256(self.files[self.FILE]).hexdigest()

    def entries(self) -> dict[int, Entry]:
        """Return the tokens by id."""
        return {number: self._entry(number) for number in range(self.vocab_size)}

    def _entry(self, number: int) -> Entry:
        text = self._processor.id_to_piece(number)
        if self._processor.is_byte(number):
            return Entry("byte", bytes([int(text[1:-1], 16)]))
        if any(is_kind(number) for is_kind in (self._processor.is_control, self._processor.is_unknown)):
            return Entry("special", text.encode())
        return Entry("text", text.replace(SPACE, " ").encode())

    def _encode(self, texts: Iterable[str], special_tokens: bool) -> Iterable[list[int]]:
        # `special_tokens` changes nothing: control symbols can't be written out.
        return map(self._processor.encode, texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without control symbols; bytes that make no character become U+FFFD."""
        return self._processor.decode(list(ids))


def _added(file: Path) -> Mapping[str, Any]:
    """Return the tokens that a file beside a model adds, and their ids."""
    path = file.with_name(ADDED)
    try:
        return parse_object(read_inside(path, path.parent, DOCUMENT_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}; expected one JSON object; restore it, or remove it") from None


def train_tokenizer(lines: Iterable[str], vocab_size: int) -> PieceTokenizer:
    """Train a BPE tokenizer with byte fallback.

    Text isn't normalized and gets no leading space, so that decoding restores it byte by byte, and the Hugging Face
    conversion gives the same ids.

    Raises:
        DataError: the text is too short for this vocabulary.
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
            bos_id=-1,  # one separator is enough, and evaluators would use an untrained token as a prefix
            pad_id=-1,
            minloglevel=2,
            num_threads=cores(),
        )
    except RuntimeError as error:
        raise DataError(f"--vocab-size {vocab_size} doesn't suit this text: {_why(str(error))}") from None
    return PieceTokenizer(model.getvalue(), "the tokenizer trained here")


def _why(reason: str) -> str:
    """Return a refusal of sentencepiece's trainer in the terms of our options."""
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", reason):
        return (
            f"expected at least {least[1]}, for each single byte, each character that the text often has, and two "
            "special tokens; raise it"
        )
    if "sentences_.empty()" in reason:
        return "there is hardly any text; add some"
    if most := re.search(r"set it to a value <= (\d+)", reason):
        return f"expected at most {most[1]}, as many pieces as it has; lower it, or add text"
    return f"{reason.strip().splitlines()[-1].rpartition('] ')[2]} Choose another number, or add text"
