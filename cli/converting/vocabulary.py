"""`lost convert --tokenizer` and `--prune-vocab`: a model with another vocabulary."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lost.cli.converting.request import Answer, Job, Request, own_type
from lost.cli.options import model_path, path_option

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.reshape.vocabulary.rows import Rows
    from lost.tokenizer import Tokenizer

NewTokenizer = Annotated[
    Path | None,
    path_option(
        "Give the model this tokenizer, as lost prepare takes it, or that of a prepared set: tokens that both know "
        "keep their rows, others start as the mean of what their text was made of. Weights only.",
        parser=model_path,
    ),
]
EndOfText = Annotated[
    str | None, typer.Option(help="With --tokenizer: as in lost prepare, if its tokenizer.json doesn't define one.")
]
PruneVocab = Annotated[
    list[str],
    typer.Option(
        metavar="TEXT",
        help="Keep the tokens that this text needs, read as lost prepare reads it, and what makes every text "
        "encodable; may be repeated. Weights only.",
    ),
]


def _change(request: Request) -> Answer:
    """Write a checkpoint with another vocabulary."""
    from lost.cli.load import open_checkpoint_of
    from lost.cli.render.output import note
    from lost.interop.destination import check_destination
    from lost.interop.special_tokens import ends_of
    from lost.prepare.sources import Sources
    from lost.reshape.vocabulary.checkpoint import write_with
    from lost.reshape.vocabulary.pruning import prune

    dtype, checkpoint = own_type(request), open_checkpoint_of(request.source)
    check_destination(request.out, checkpoint.path, request.overwrite)
    before = checkpoint.tokenizer()
    if request.tokenizer:
        after, rows = _another(checkpoint, before, request.tokenizer, request.end_of_text)
    else:
        text = Sources(request.prune_vocab)
        after, rows = prune(before, text, ends_of(checkpoint))
        for remark in text.remarks():
            note(remark)
    written = write_with(checkpoint, request.out, after, rows, dtype, request.part_bytes, request.overwrite)
    return _told(checkpoint, written, before, after, rows)


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


_REFUSES = {
    "--weights-only": "moments of other rows can't go along",
    "--backend": "nothing is computed",
    "--device": "nothing is computed",
}
JOBS = (
    Job("--tokenizer", frozenset({"--end-of-text", "--dtype", "--part-mib"}), _change, refuses=_REFUSES),
    Job("--prune-vocab", frozenset({"--dtype", "--part-mib"}), _change, refuses=_REFUSES),
)
