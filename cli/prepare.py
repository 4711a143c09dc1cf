"""`lost prepare`: text in, token shards out."""

from pathlib import Path
from typing import Annotated

import typer

from lost.cli.options import AsJson


def prepare(
    text: Annotated[list[Path], typer.Argument(metavar="TEXT...", help="Text files, .jsonl[.gz] files, folders.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make; default data/NAME.")] = None,
    vocab_size: Annotated[int, typer.Option(help="Size of the BPE vocabulary to train.", min=1)] = 8192,
    tokenizer: Annotated[Path | None, typer.Option(help="Use this sentencepiece model instead.")] = None,
    valid: Annotated[list[Path], typer.Option(help="Validation text of its own; may be repeated.")] = [],
    valid_fraction: Annotated[float, typer.Option(help="Otherwise, the share of documents to hold out.")] = 0.01,
    include: Annotated[list[str], typer.Option(help="In folders, take only names like this: '*.py'.")] = [],
    exclude: Annotated[list[str], typer.Option(help="In folders, leave out names like this.")] = [],
    text_key: Annotated[str, typer.Option(help="Field of a JSON line that holds the text.")] = "text",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a set that is already there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn text into token shards.

    A text file is one document, a JSON line is one document. Documents are packed end to end, nothing is padded.
    The folder appears only when it is complete; an interrupted call leaves nothing half-made.
    """
    from lost.cli.output import answer, count, note
    from lost.cli.progress import PreparationScreen
    from lost.prepare import prepare as prepare_text
    from lost.sources import Sources
    from lost.tokenizer import load_tokenizer

    out = out or Path("data") / text[0].name.split(".")[0]
    sources = Sources(text, include, exclude, text_key)
    screen = PreparationScreen(on_stderr=as_json)
    with screen.live():
        splits = prepare_text(
            sources,
            out,
            load_tokenizer(tokenizer) if tokenizer else vocab_size,
            Sources(valid, include, exclude, text_key) if valid else valid_fraction,
            screen,
            overwrite,
        )
    if sources.skipped:
        shown = ", ".join(path.name for path in sources.skipped[:3])
        note(f"{len(sources.skipped)} files in the folders are not text and were left out: {shown} ...")
    lines = [
        f"{name:5}  {entry['documents']:,} documents  {count(entry['bytes'])}B of text  {count(entry['tokens'])} tokens"
        f"  {entry['bytes'] / entry['tokens']:.2f} bytes a token"
        for name, entry in splits.items()
    ]
    counts = {name: {key: entry[key] for key in ("documents", "bytes", "tokens")} for name, entry in splits.items()}
    answer(as_json, {"path": str(out), **counts}, [*lines, f"prepared {out}"])
