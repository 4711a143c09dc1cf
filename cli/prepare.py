"""`lost prepare`: text in, token shards out."""

from pathlib import Path
from typing import Annotated

import typer

from lost.cli.options import AsJson

_VOCAB_SIZE = 8192
_VALID_FRACTION = 0.01


def prepare(
    text: Annotated[list[Path], typer.Argument(metavar="TEXT...", help="Text files, .jsonl[.gz] files, folders.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make; default data/NAME.")] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help=f"Size of the BPE vocabulary to train; default {_VOCAB_SIZE}.", min=1)
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Use this tokenizer.model, tokenizer.json, or folder with one, instead.")
    ] = None,
    end_of_text: Annotated[
        str | None, typer.Option(help="Token of the tokenizer.json that separates documents, where it says none.")
    ] = None,
    valid: Annotated[list[Path], typer.Option(help="Validation text of its own; may be repeated.")] = [],
    valid_fraction: Annotated[
        float | None, typer.Option(help=f"Otherwise, the share of the text to hold out; default {_VALID_FRACTION}.")
    ] = None,
    include: Annotated[list[str], typer.Option(help="In folders, take only names like this: '*.py'.")] = [],
    exclude: Annotated[list[str], typer.Option(help="In folders, leave out names like this.")] = [],
    text_key: Annotated[str, typer.Option(help="Field of a JSON line that holds the text.")] = "text",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a set that is already there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn text into token shards.

    A text file is one document, a JSON line is one document. Documents are packed end to end, nothing is padded. Text
    named by --valid that lies inside a TEXT folder is not trained on.
    The folder appears only when it is complete; an interrupted call leaves nothing half-made.
    """
    from lost.cli.output import answer, count, note
    from lost.cli.progress import PreparationScreen
    from lost.errors import UserError
    from lost.prepare import prepare as prepare_text
    from lost.sources import Sources
    from lost.tokenizer import load_tokenizer

    for first, second in ((vocab_size, tokenizer), (valid_fraction, valid)):
        if first is not None and second:
            names = "--vocab-size and --tokenizer" if second is tokenizer else "--valid-fraction and --valid"
            raise UserError(f"{names} were both given; expected one of them")
    if end_of_text is not None and tokenizer is None:
        raise UserError("--end-of-text was given without --tokenizer: one trained here has its own; leave it out")
    out = out or Path("data") / text[0].name.split(".")[0]
    sources = Sources(text, include, exclude, text_key)
    held_out = Sources(valid, include, exclude, text_key) if valid else None
    screen = PreparationScreen(on_stderr=as_json)
    with screen.live():
        splits = prepare_text(
            sources,
            out,
            load_tokenizer(tokenizer, end_of_text) if tokenizer else vocab_size or _VOCAB_SIZE,
            held_out or (_VALID_FRACTION if valid_fraction is None else valid_fraction),
            screen,
            overwrite,
        )
    if skipped := [*sources.skipped, *(held_out.skipped if held_out else [])]:
        note(
            f"left out, because they are not text: {', '.join(path.name for path in skipped[:3])}"
            f"{f' and {len(skipped) - 3} more' if len(skipped) > 3 else ''}"
        )
    lines = [
        f"{name:5}  {entry['documents']:,} documents  {count(entry['bytes'])}B of text  {count(entry['tokens'])} tokens"
        f"  {entry['bytes'] / entry['tokens']:.2f} bytes a token"
        for name, entry in splits.items()
    ]
    counts = {name: {key: entry[key] for key in ("documents", "bytes", "tokens")} for name, entry in splits.items()}
    answer(as_json, {"path": str(out), **counts}, [*lines, f"prepared {out}"])
