"""Tokens before and after a text: which of them a model has learned, and how other programs are told.

A run of ours has learned end-of-text alone, whatever its tokenizer would put around a text. A model that was imported
has learned what its tokenizer says, and may end a text with several tokens.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lost.checkpoint import CONFIG, Checkpoint, Origin, TrainState
from lost.checkpoint.lineage import line
from lost.errors import CheckpointError
from lost.model.parameters import vocabulary
from lost.storage.nofollow import DOCUMENT_BYTES, read_inside
from lost.tokenizer import Tokenizer
from lost.tokenizer.base import CONFIG as TOKENIZER_CONFIG
from lost.tokenizer.huggingface import JsonTokenizer
from lost.tokenizer.sentencepiece import PieceTokenizer
from lost.utils.extras import need
from lost.utils.parsing import parse_object

GENERATION = "generation_config.json"


def as_learned(source: Checkpoint) -> Tokenizer:
    """Return a checkpoint's tokenizer as other programs are to have it.

    That of a run of ours adds nothing around a text, and names end-of-text as what stands before one; its chat template
    writes what it wrote in training. That of an imported model stays as it is.
    """
    tokenizer = source.tokenizer()
    if imported(source.progress):
        return tokenizer
    if isinstance(tokenizer, PieceTokenizer):
        return tokenizer.beginning_with_nothing()
    if not isinstance(tokenizer, JsonTokenizer):
        return tokenizer
    config = json.loads(tokenizer.files[TOKENIZER_CONFIG])
    begin = config.get("bos_token", "")
    if begin != config["eos_token"] and "chat_template" in config:
        config["chat_template"] = _naming(config["chat_template"], begin)
    content = _adding_nothing(tokenizer.files[JsonTokenizer.FILE])
    return JsonTokenizer(content, {**config, "bos_token": config["eos_token"]}, str(source.path))


def imported(progress: TrainState) -> bool:
    """Whether the weights, or those that they were trained from, came from another library."""
    generations: list[TrainState | Origin] = [progress, *line(progress.origin)]
    first = generations[-1]
    return not (first.step or first.data)


def begin_of_text(tokenizer: Tokenizer) -> int:
    """Return the token that a tokenizer names as what stands before a text; where it names none, end-of-text."""
    if isinstance(tokenizer, PieceTokenizer):
        return tokenizer.end_of_text if tokenizer.begin_of_text is None else tokenizer.begin_of_text
    named = json.loads(tokenizer.files.get(TOKENIZER_CONFIG, b"{}")).get("bos_token")
    ids = tokenizer.encode(named, special_tokens=True).tolist() if named else []
    return ids[0] if len(ids) == 1 else tokenizer.end_of_text


def puts_before(tokenizer: Tokenizer, token: int) -> bool:
    """Return whether another program that reads its file finds this token put before a text."""
    if isinstance(tokenizer, PieceTokenizer):
        return tokenizer.begin_of_text == token
    if not isinstance(tokenizer, JsonTokenizer):
        return False
    theirs = need("tokenizers", "tokenizers", "reading tokenizer.json").Tokenizer
    return theirs.from_str(tokenizer.files[JsonTokenizer.FILE].decode()).encode("a").ids[:1] == [token]


def read_after(tokenizer: Tokenizer, progress: TrainState | None) -> int:
    """Return the token that a model reads a text after: end-of-text, as in training.

    Of weights of others that weren't trained since, it is the one that their tokenizer puts there, if it does.

    Args:
        tokenizer: the model's.
        progress: of its training here; None: a folder of others, which doesn't say.
    """
    if progress is not None and (progress.step or not imported(progress)):
        return tokenizer.end_of_text
    begin = begin_of_text(tokenizer)
    return begin if puts_before(tokenizer, begin) else tokenizer.end_of_text


def ends_of_text(folder: Path, entries: int) -> tuple[int, ...]:
    """Return the tokens that a model's folder says end a text, end-of-text perhaps among them.

    Args:
        folder: of transformers, or a checkpoint.
        entries: of the model's vocabulary; ids beyond it are never generated.

    Raises:
        CheckpointError: a file can't be read.
    """
    for name in (GENERATION, CONFIG):
        try:
            found = parse_object(read_inside(folder / name, folder, DOCUMENT_BYTES)).get("eos_token_id")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder / name} can't be read: {error}; expected an object of JSON; download it again, or remove it"
            ) from None
        if found is not None:
            ids = found if isinstance(found, list) else [found]
            return tuple(each for each in ids if type(each) is int and 0 <= each < entries)
    return ()


def ends_of(source: Checkpoint) -> tuple[int, ...]:
    """Return the tokens that a checkpoint says end a text; none: end-of-text alone does.

    Raises:
        CheckpointError: as `ends_of_text`.
    """
    return ends_of_text(source.path, vocabulary(source.config))


def own_tokenizer(source: Checkpoint) -> Tokenizer:
    """Return a checkpoint's tokenizer, among whose files stand the tokens that end a text: for what is made of it.

    Raises:
        CheckpointError, DataError: as `Checkpoint.tokenizer`, or `ends_of_text`.
    """
    return with_ends(source.tokenizer(), ends_of(source))


def with_ends(tokenizer: Tokenizer, ends: Sequence[int]) -> Tokenizer:
    """Return the same tokenizer, among whose files stand the tokens that end a text, if there are several."""
    if not set(ends) - {tokenizer.end_of_text}:
        return tokenizer
    made = copy.copy(tokenizer)
    made.files = {**tokenizer.files, GENERATION: json.dumps({"eos_token_id": list(ends)}).encode()}
    return made


def _naming(template: Any, begin: str) -> Any:
    """Return a chat template for which `bos_token` is this text, whatever a program says that it is."""
    if isinstance(template, list):
        return [{**each, "template": _naming(each.get("template"), begin)} for each in template if type(each) is dict]
    if isinstance(template, str) and "bos_token" in template:
        return f"{{% set bos_token = {json.dumps(begin, ensure_ascii=False)} %}}{template}"
    return template


def _adding_nothing(content: bytes) -> bytes:
    """Return a tokenizer.json that puts no token around a text; the same where it puts none."""
    document = parse_object(content)
    step = document.get("post_processor") or {}
    steps = step.get("processors", [step])
    kept = [each for each in steps if each.get("type", "ByteLevel") == "ByteLevel"]  # it corrects offsets alone
    if kept == steps:
        return content
    return json.dumps(
        {**document, "post_processor": {"type": "Sequence", "processors": kept} if kept else None}
    ).encode()
