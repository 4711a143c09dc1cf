"""`lost prepare`: turn text into token shards."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lost.cli.options import AsJson, count_option, json_asked, model_path, path_option
from lost.prepare import SPLIT, TEXT_KEY, VOCAB_SIZE

_VALID_FRACTION = 0.01


def _list_recipes(wanted: bool) -> None:
    if wanted:
        from lost.cli.render.output import answer
        from lost.prepare.recipes import listed

        recipes = listed()
        answer(json_asked(), {"recipes": recipes}, [f"{each['name']}: {each['about']}" for each in recipes])
        raise typer.Exit


def prepare(
    text: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT",
            help="Text, .jsonl and .parquet files, folders, or data sets of the Hugging Face hub: hf://owner/name; "
            "or a recipe, by name or YAML file.",
        ),
    ],
    out: Annotated[Path | None, path_option("Folder to make; default data/NAME.")] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help=f"Size of the BPE vocabulary to train; default {VOCAB_SIZE}.", min=1, max=1 << 24)
    ] = None,
    tokenizer: Annotated[
        Path | None,
        path_option(
            "Use this tokenizer.model or tokenizer.json, or that of a folder, a run or a model of the hub "
            "(hf://owner/name), instead.",
            parser=model_path,
        ),
    ] = None,
    end_of_text: Annotated[
        str | None, typer.Option(help="Token that separates documents, if the tokenizer.json doesn't define one.")
    ] = None,
    valid: Annotated[
        list[str], typer.Option(metavar="TEXT", help="Separate validation text; may be given several times.")
    ] = [],
    valid_fraction: Annotated[
        float | None, typer.Option(help=f"Otherwise, the fraction of the text to hold out; default {_VALID_FRACTION}.")
    ] = None,
    valid_split: Annotated[
        str | None, typer.Option(help="Validation split of hub data sets: those of --valid, else those of TEXT.")
    ] = None,
    recipes: Annotated[
        bool,
        typer.Option("--recipes", callback=_list_recipes, is_eager=True, help="List the recipes that ship."),
    ] = False,
    include: Annotated[
        list[str],
        typer.Option(metavar="PATTERN", help="In folders, use only names that match, such as '*.py'; may be repeated."),
    ] = [],
    exclude: Annotated[
        list[str], typer.Option(metavar="PATTERN", help="In folders, skip names that match; may be repeated.")
    ] = [],
    text_key: Annotated[
        str | None, typer.Option(help=f"Field of a JSON line, or column, with the text; default {TEXT_KEY}.")
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples", help="The JSON lines are examples for fine-tuning; needs --tokenizer.")
    ] = False,
    answers: Annotated[
        Literal["last", "all"] | None,
        typer.Option(help="With --examples: which answers of a conversation are learned; default: last."),
    ] = None,
    config: Annotated[str | None, typer.Option(help="Subset of hub data sets, such as en.")] = None,
    split: Annotated[str | None, typer.Option(help=f"Split of hub data sets; default {SPLIT}.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of hub data sets.")] = None,
    max_documents: Annotated[int | None, count_option("Take at most so many documents, drawn from all TEXT.")] = None,
    max_tokens: Annotated[int | None, count_option("Take at most so many tokens, of documents drawn so.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the sampling by --max-documents and --max-tokens; default 0.", min=0)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes for encoding; default: one per core. Doesn't affect the result.", min=1),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing set, or an unfinished one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn text into token shards.

    A text file is one document, and so is a JSON line or a row of a parquet file; .gz and .zst are decompressed.
    Documents are packed end to end, without padding. Text of --valid is never trained on, even if TEXT contains it.
    What --max-documents and --max-tokens take includes the fraction that is held out, but not --valid.

    With --examples, lines hold a prompt and a completion, messages, or a text, in mlx-lm's format, and only the
    completion or the last answer is learned, or with --answers all each answer. A folder stands for its train.jsonl and
    valid.jsonl.

    The folder appears only when it is complete. If interrupted, run the same command again to resume (with --examples,
    it starts over).
    """
    from dataclasses import replace

    from lost.checkpoint import tokenizer_path
    from lost.cli.render.output import answer, note
    from lost.cli.render.progress import PreparationScreen
    from lost.cli.selection import check_file_options, check_hub_options
    from lost.errors import UserError
    from lost.interop.hub.download import fetched_tokenizer
    from lost.prepare.cap import Cap
    from lost.prepare.examples import prepare_examples
    from lost.prepare.reading.hub import HubChoice
    from lost.prepare.recipes import find_recipe, is_shipped
    from lost.prepare.sources import Sources
    from lost.prepare.text import prepare as prepare_text
    from lost.storage.nofollow import resolved
    from lost.tokenizer import load_tokenizer
    from lost.utils.machine import cores

    for first, second in ((vocab_size, tokenizer), (valid_fraction, valid or valid_split)):
        if first is not None and second:
            names = "--vocab-size and --tokenizer" if second is tokenizer else "--valid-fraction and --valid[-split]"
            raise UserError(f"{names} were both given; leave one of them out")
    if end_of_text is not None and tokenizer is None:
        raise UserError(
            "--end-of-text has no effect without --tokenizer: a tokenizer trained here has its own; leave it out"
        )
    tokenizer = tokenizer and fetched_tokenizer(tokenizer)
    cap = Cap(max_documents, max_tokens, seed or 0) if max_documents or max_tokens else None
    if seed is not None and not cap:
        raise UserError(f"--seed {seed} has no effect without --max-documents or --max-tokens; leave it out")
    name = next(filter(is_shipped, text), text[0])
    named = resolved(Path(name))
    if recipe := find_recipe(name):
        if others := [each for each in text if each != name]:
            raise UserError(
                f"{name} is a recipe, and stands alone; prepare {', '.join(others)} apart, and mix them with "
                "data.mixture"
            )
        if examples:
            raise UserError(
                f"{name} is a recipe, of text, and has no examples; expected JSON lines that hold some; name these, or "
                "leave out --examples"
            )
        note(f"{name}: {recipe.hub}, license: {recipe.license}")
        text, config, revision = [recipe.hub], config or recipe.config, revision or recipe.revision
        split, text_key = split or recipe.split, text_key or recipe.text_key
        if not valid and valid_fraction is None:
            valid_split = valid_split or recipe.valid_split
    stem = named.name.lstrip(".").split(".")[0]
    if out is None and not stem:
        raise UserError(f"{name}: nothing in it names the result; expected a folder to make; add --out DIR")
    out = out or Path("data") / stem
    screen = PreparationScreen(on_stderr=as_json)
    share = _VALID_FRACTION if valid_fraction is None else valid_fraction
    if examples:
        if tokenizer is None:
            raise UserError(
                "--examples needs --tokenizer: that of the model to be tuned; name its checkpoint or folder"
            )
        if include or exclude or text_key or config or revision or split or valid_split or cap:
            raise UserError(
                "options that select text from files or data sets have no effect with --examples; leave them out"
            )
        if workers:
            raise UserError("--workers has no effect with --examples, which a single process encodes; leave it out")
        train_files, valid_files = example_files(text, valid, valid_fraction)
        own = load_tokenizer(tokenizer_path(tokenizer), end_of_text)
        with screen.live():
            splits = prepare_examples(
                train_files, out, own, valid_files or share, screen, overwrite, screen.message, answers or "last"
            )
        remark_on_share(splits, None if valid_files else share)
        answer(as_json, *described(out, splits))
        return
    if answers:
        raise UserError(f"--answers {answers} without --examples: plain text is all learned; leave it out")
    key, choice = text_key or TEXT_KEY, HubChoice(config, split or SPLIT, revision)
    sources = Sources(text, include, exclude, key, choice=choice, cap=cap)
    held_out = None
    if valid or valid_split:
        choice = replace(choice, split=valid_split or choice.split)
        held_out = Sources(valid or sources.remote, include, exclude, key, choice=choice)
    check_hub_options(sources, held_out, config, split, revision, valid_split)
    check_file_options(sources, held_out, include, exclude, text_key)
    with screen.live():
        splits = prepare_text(
            sources,
            out,
            load_tokenizer(tokenizer_path(tokenizer), end_of_text) if tokenizer else vocab_size or VOCAB_SIZE,
            held_out or share,
            screen,
            overwrite,
            workers or cores(),
            screen.message,
        )
    for each in (sources, *([held_out] if held_out else [])):
        for remark in each.remarks():
            note(remark)
    remark_on_share(splits, None if held_out else share)
    answer(as_json, *described(out, splits))


def remark_on_share(splits: "dict[str, dict[str, Any]]", share: float | None) -> None:
    """Show that the share held out isn't the one asked for, unless none was."""
    from lost.cli.render.output import note
    from lost.data.dataset import TRAIN, VALID
    from lost.prepare.holdout import uneven

    if share is not None and (remark := uneven(splits[TRAIN]["bytes"], splits[VALID]["bytes"], share)):
        note(remark)


def described(out: Path, splits: "dict[str, dict[str, Any]]") -> "tuple[dict[str, Any], list[str]]":
    """Return the command's answer: the counts of both splits, as JSON and as lines."""
    from lost.cli.render.output import count
    from lost.utils.wording import counted

    value: dict[str, Any] = {"path": str(out)}
    lines = []
    for name, entry in splits.items():
        value[name] = {key: entry[key] for key in ("documents", "bytes", "tokens")}
        line = (
            f"{name:5}  {counted(entry['documents'], 'document')}  {count(entry['bytes'])}B of text  "
            f"{count(entry['tokens'])} tokens  {entry['bytes'] / entry['tokens']:.2f} bytes a token"
        )
        if "targets" in entry:
            value[name]["targets"] = entry["targets"]["tokens"]
            line += f"  {count(entry['targets']['tokens'])} of them to be learned"
        lines.append(line)
    return value, [*lines, f"prepared {out}"]


def example_files(text: list[str], valid: list[str], fraction: float | None) -> tuple[list[Path], list[Path]]:
    """Return the files for training and for validation; a folder stands for the files that mlx-lm expects in it.

    Raises:
        UserError: a folder without train.jsonl.
    """
    from lost.errors import UserError

    train_files, valid_files = [], [Path(name) for name in valid]
    for path in map(Path, text):
        if not path.is_dir():
            train_files.append(path)
            continue
        if not (path / "train.jsonl").is_file():
            raise UserError(
                f"{path} holds no train.jsonl; expected it, and valid.jsonl if there is one; name the files"
            )
        train_files.append(path / "train.jsonl")
        if not valid and fraction is None and (path / "valid.jsonl").is_file():
            valid_files.append(path / "valid.jsonl")
    return train_files, valid_files
