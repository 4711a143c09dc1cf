"""From JSON lines of examples to a prepared set whose marks say what is to be learned."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lost.data.dataset import TRAIN, VALID, SplitWriter, write_description
from lost.data.loss_mask import MarksWriter
from lost.errors import DataError
from lost.prepare.example_lines import Example, encode_example, read_examples
from lost.prepare.resume import read_journal
from lost.prepare.text import ProgressCallback, check_place, check_share, empty, own_folder, unseen
from lost.storage.files import publish, storage
from lost.storage.lock import FILE as LOCK
from lost.storage.lock import locked
from lost.storage.nofollow import remove
from lost.tokenizer import Tokenizer
from lost.tokenizer.chat_template import template_of

_SHOWN_EVERY = 1000  # examples


def prepare_examples(
    paths: Sequence[Path],
    out: Path,
    tokenizer: Tokenizer,
    valid: Sequence[Path] | float,
    progress: ProgressCallback = unseen,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write a prepared set of examples.

    Args:
        paths: JSON-lines files to learn from.
        out: the folder to make; it appears only when it is complete.
        tokenizer: that of the model to be tuned.
        valid: files of their own for validation, or the share of examples to hold out, in (0, 1): equal ones together.
        progress: shown.
        overwrite: replace a set that is already there.
        tell: told what else there is to know.

    Returns:
        The entries of both splits, as in `dataset.json`.

    Raises:
        DataError: a line that is no example, too few of them, a set that is already there, or the beginning of another.
        RunBusyError: another job makes this set.
    """
    own = valid if isinstance(valid, Sequence) else ()
    if not isinstance(valid, Sequence):
        check_share(valid)
    check_place(out, [*paths, *own], overwrite)
    template = template_of(tokenizer)
    held = None if isinstance(valid, Sequence) else _held_out(read_examples(paths, template), valid)

    def chosen(name: str) -> Iterator[Example]:
        if held is not None:
            examples = read_examples(paths, template)
            yield from (each for each in examples if (_hash(each) in held) == (name == VALID))
        else:
            yield from read_examples(paths if name == TRAIN else own, template)

    partial = own_folder(out)
    with storage(out), locked(partial, tell):
        read_journal(partial, {"examples": [str(path) for path in paths]}, overwrite)  # another command's is refused
        try:
            check_place(out, [*paths, *own], overwrite)  # again: another command may just have made it
            empty(partial)
            splits = {name: _write(partial, name, chosen(name), tokenizer, progress) for name in (TRAIN, VALID)}
            named = [str(path) for path in (*paths, *own)]
            write_description(partial, tokenizer, splits, {"sources": named, "examples": True})
            publish(partial, out, overwrite)
            remove(out / LOCK)
        except BaseException:
            remove(partial)
            raise
    return splits


def _write(
    folder: Path, name: str, examples: Iterable[Example], tokenizer: Tokenizer, progress: ProgressCallback
) -> dict[str, Any]:
    shards, marks = SplitWriter(folder, name, tokenizer), MarksWriter(folder, name)
    marks.append(np.zeros(shards.tokens, np.uint8))  # end-of-text, which every split begins with
    for example in examples:
        ids, marked = encode_example(example, tokenizer)
        answer = len(example.answer.encode())
        shards.append(ids, 1, len(example.given.encode()) + answer)
        marks.append(marked)
        marks.bytes += answer
        if shards.documents % _SHOWN_EVERY == 0:
            progress(f"encoding {name}", shards.bytes, 0)
    if not shards.documents:
        raise DataError(f"there is no example for the {name} split; expected at least one line that isn't empty")
    progress(f"encoding {name}", shards.bytes, shards.bytes)
    return {**shards.close(), "targets": marks.close()}


def _held_out(examples: Iterable[Example], fraction: float) -> set[bytes]:
    """Return the hashes of the examples to hold out, at least one."""
    hashes = sorted({_hash(example) for example in examples})
    if len(hashes) < 2:
        raise DataError(
            f"there are {len(hashes)} different examples, none to hold out; expected at least two; add some, or name "
            "others with --valid"
        )
    return set(hashes[: max(1, round(len(hashes) * fraction))])


def _hash(example: Example) -> bytes:
    return hashlib.blake2b(f"{example.given}\0{example.answer}".encode(), digest_size=16).digest()
