"""`lost convert --tokenizer` and `--prune-vocab`: a model with another vocabulary."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.config import DType
    from lost.reshape.vocabulary.rows import Rows
    from lost.tokenizer import Tokenizer


def check_options(
    tokenizer: Path | None, prune_vocab: Sequence[str], end_of_text: str | None, source_kind: str, to: str
) -> None:
    """Refuse options that don't go together.

    Raises:
        UserError: they don't.
    """
    from lost.errors import UserError

    if end_of_text is not None and tokenizer is None:
        raise UserError(f"--end-of-text {end_of_text} without --tokenizer: it is a token of that one; leave it out")
    if tokenizer and prune_vocab:
        raise UserError(
            "--tokenizer and --prune-vocab: one gives the model another vocabulary, the other a part of its own; "
            "convert with one of them, and its result with the other"
        )
    option = "--tokenizer" if tokenizer else "--prune-vocab"
    if source_kind == "hf":
        raise UserError(f"{option} with --from hf: not supported in one step; leave it out, then convert the result")
    if to != "lost":
        raise UserError(
            f"{option} with --to {to}: it makes a checkpoint, to be trained or exported; leave --to out, then export "
            "the result"
        )


def change_vocabulary(
    checkpoint: "Checkpoint",
    out: Path,
    tokenizer: Path | None,
    end_of_text: str | None,
    prune_vocab: Sequence[str],
    dtype: "DType | None",
    part_bytes: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a checkpoint with another vocabulary, and answer."""
    from lost.cli.render.output import answer, note
    from lost.interop.rewrite import check_destination
    from lost.interop.special_tokens import ends_of
    from lost.prepare.sources import Sources
    from lost.reshape.vocabulary.checkpoint import write_with
    from lost.reshape.vocabulary.pruning import prune

    check_destination(out, checkpoint.path, overwrite)
    before = checkpoint.tokenizer()
    if tokenizer:
        after, rows = _another(checkpoint, before, tokenizer, end_of_text)
    else:
        text = Sources(prune_vocab)
        after, rows = prune(before, text, ends_of(checkpoint))
        for remark in text.remarks():
            note(remark)
    written = write_with(checkpoint, out, after, rows, dtype, part_bytes, overwrite)
    answer(as_json, *_told(checkpoint, written, before, after, rows))


def _another(
    checkpoint: "Checkpoint", before: "Tokenizer", path: Path, end_of_text: str | None
) -> "tuple[Tokenizer, Rows]":
    from lost.checkpoint import tokenizer_path
    from lost.errors import UserError
    from lost.interop.hub.download import as_typed, fetched_tokenizer
    from lost.model.parameters import vocabulary
    from lost.reshape.vocabulary.rows import corresponding
    from lost.tokenizer import load_tokenizer, same_ids

    after = load_tokenizer(tokenizer_path(fetched_tokenizer(path)), end_of_text)
    rows = corresponding(before, after, vocabulary(checkpoint.config))
    if same_ids(before, after):
        raise UserError(
            f"--tokenizer {as_typed(path)} gives the same ids as the one of {checkpoint.path}; expected another; there "
            "is nothing to convert"
        )
    return after, rows


def _told(
    source: "Checkpoint", written: "Checkpoint", before: "Tokenizer", after: "Tokenizer", rows: "Rows"
) -> tuple[dict[str, Any], list[str]]:
    """Return the answer, as JSON and as lines."""
    from lost.cli.render.output import count
    from lost.planning.budget import budget
    from lost.utils.wording import counted

    sizes = [budget(each.config).parameters for each in (source, written)]
    value: dict[str, Any] = {"path": str(written.path), "source": str(source.path), "to": "lost"}
    value |= {"step": written.progress.step, "dtype": written.config.train.param_dtype, "optimizer": False}
    value["tokens"] = {"before": before.vocab_size, "after": after.vocab_size, "kept": rows.copied}
    value["rows"] = {"before": source.config.model.vocab_size, "after": len(rows.old)}
    value["parameters"] = {"before": sizes[0], "after": sizes[1]}
    value["bytes"] = sum(seal["size"] for seal in written.files.values())
    lines = [
        f"{source.path} -> {written.path}: {counted(after.vocab_size, 'token')} (were {before.vocab_size:,}), "
        f"{rows.copied:,} with their rows as they were; {count(sizes[1])} parameters (were {count(sizes[0])}); "
        "read back and compared",
        f"to go on: lost prepare TEXT --tokenizer {written.path} --out DATA; "
        f"lost train --init-from {written.path} --data DATA --out RUN",
    ]
    return value, lines
