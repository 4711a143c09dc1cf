"""Preparation of examples: JSON lines to a prepared set whose loss mask says what is to be learned."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lost.data.dataset import TRAIN, VALID
from lost.data.writer import MaskWriter, SplitWriter, write_description
from lost.errors import DataError
from lost.prepare.example_lines import Answers, Example, encode_example, read_examples
from lost.prepare.holdout import check_apart, check_share
from lost.prepare.output import ProgressCallback, prepared_set, unsaid, unseen
from lost.storage.nofollow import is_within
from lost.tokenizer import Tokenizer
from lost.tokenizer.chat_template import PLAIN, template_of

_SHOWN_EVERY = 1000  # examples


def prepare_examples(
    paths: Sequence[Path],
    out: Path,
    tokenizer: Tokenizer,
    valid: Sequence[Path] | float,
    progress: ProgressCallback = unseen,
    overwrite: bool = False,
    log: Callable[[str], None] = unsaid,
    answers: Answers = "last",
) -> dict[str, Any]:
    """Write a prepared set of examples.

    Args:
        paths: JSON-lines files to learn from.
        out: the folder to make; it appears only when it is complete.
        tokenizer: that of the model to be tuned.
        valid: files of their own for validation, which aren't learned from though `paths` have them, or the share of
            examples to hold out, in (0, 1): equal ones together.
        progress: shown.
        overwrite: replace a set that is already there.
        log: told what else a user should know.
        answers: of a conversation with several: the last is learned, or each.

    Returns:
        The entries of both splits, as in `dataset.json`.

    Raises:
        DataError: a line that is no example, too few of them, a set that is already there, or the beginning of another.
        RunBusyError: another job makes this set.
    """
    own = valid if isinstance(valid, Sequence) else ()
    if isinstance(valid, Sequence):
        check_apart(paths, own)
        paths = [path for path in paths if not is_within(path, own)]
    else:
        check_share(valid)
    read = [*paths, *own]
    further = {"answers": answers} if answers != "last" else {}  # sets of earlier versions don't say
    stamp = {"examples": [str(path) for path in paths], **further}
    with prepared_set(out, read, stamp, overwrite, log) as (folder, _):
        template = template_of(tokenizer)
        held_out = None if isinstance(valid, Sequence) else _held_out(read_examples(paths, template, answers), valid)

        def examples_of(split: str) -> Iterator[Example]:
            if held_out is not None:
                examples = read_examples(paths, template, answers)
                yield from (each for each in examples if (each.digest in held_out) == (split == VALID))
            else:
                yield from read_examples(paths if split == TRAIN else own, template, answers)

        validation_first = (VALID, TRAIN)  # what is wrong there is said before all else is encoded
        written = {name: _write(folder, name, examples_of(name), tokenizer, progress) for name in validation_first}
        splits = {name: written[name][0] for name in (TRAIN, VALID)}
        if not tokenizer.chat_template and any(conversations for _, conversations in written.values()):
            tokenizer = tokenizer.with_chat_template(PLAIN)  # which runs and their exports then have too
        write_description(
            folder, tokenizer, splits, {"sources": [str(path) for path in read], "examples": True, **further}
        )
        return splits


def _write(
    folder: Path, name: str, examples: Iterable[Example], tokenizer: Tokenizer, progress: ProgressCallback
) -> tuple[dict[str, Any], bool]:
    """Write one split; return its entry of `dataset.json`, and whether there are conversations in it."""
    shards, mask = SplitWriter(folder, name, tokenizer), MaskWriter(folder, name)
    conversations = False
    mask.append(np.zeros(shards.tokens, np.uint8))  # end-of-text, which every split begins with
    for example in examples:
        ids, marks = encode_example(example, tokenizer)
        shards.append(ids, 1, len(example.text.encode()))
        mask.append(marks)
        mask.bytes += len(example.learned.encode())
        conversations = conversations or example.conversation
        if shards.documents % _SHOWN_EVERY == 0:
            progress(f"encoding {name}", shards.bytes, 0)
    if not shards.documents:
        raise DataError(f"there is no example for the {name} split; expected at least one line that isn't empty")
    progress(f"encoding {name}", shards.bytes, shards.bytes)
    return {**shards.close(), "targets": mask.close()}, conversations


def _held_out(examples: Iterable[Example], fraction: float) -> set[bytes]:
    """Return the digests of the examples to hold out, at least one, and at most all but one."""
    digests = sorted({example.digest for example in examples})
    if len(digests) < 2:
        raise DataError(
            f"there are {len(digests)} different examples, none to hold out; expected at least two; add some, or name "
            "others with --valid"
        )
    return set(digests[: min(len(digests) - 1, max(1, round(len(digests) * fraction)))])
