"""`lost merge`: the average of checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lost.cli.options import AsJson, Backend, Device, Threads, local_path, path_option

if TYPE_CHECKING:
    import numpy as np

    from lost.checkpoint import Checkpoint
    from lost.reshape.likeness import LayerGap
    from lost.reshape.merge import Part

_OFF = 0.015  # how far the sum of shares may be from 1: three thirds of two digits are .99


def merge(
    sources: Annotated[
        list[Path],
        typer.Argument(parser=local_path, metavar="RUN[@STEP]", help="Runs or checkpoints, two or more."),
    ],
    out: Annotated[Path, typer.Argument(parser=local_path, metavar="DST", help="Checkpoint to make.")],
    weights: Annotated[
        str | None, typer.Option(metavar="W,W,...", help="Share of each, adding up to 1; default: all alike.")
    ] = None,
    by: Annotated[
        Literal["shares", "fisher"],
        typer.Option(help="fisher: each weight counts also by its Fisher information on --text."),
    ] = "shares",
    text: Annotated[Path | None, path_option("With --by fisher: a file, .jsonl or folder of text.")] = None,
    as_dense: Annotated[
        int | None,
        typer.Option(
            metavar="RANK",
            help="Average layers as matrices, and decompose these to this rank: for layers without activation that "
            "keep other channels, or have other ranks.",
            min=1,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier checkpoint.")] = False,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Average checkpoints of one model.

    Of one run at several steps (RUN@1000 RUN@1200: its tail), or of runs that went apart from one start (train
    --branch-from, --init-from) on other text or machines. The result has weights alone: eval, generate, convert and
    train --init-from take it.

    Models must be of one shape and vocabulary, keep the same channels and come from one start; others are refused.
    """
    from lost.cli.load import open_checkpoint_of
    from lost.cli.render.output import answer
    from lost.errors import UserError
    from lost.interop.destination import check_destination
    from lost.reshape.as_dense import averaged_as_dense, decomposed_target
    from lost.reshape.likeness import check_alike, layer_gaps
    from lost.reshape.merge import Part, averaged, write_merged

    if len(sources) < 2:
        raise UserError(
            f"lost merge {sources[0]} {out}: one model; expected two or more, and the folder to make; name another"
        )
    if (by == "fisher") != (text is not None):
        raise UserError(
            "--by fisher and --text go together: Fisher information is of a text; expected both, or neither; "
            f"{'add --text' if by == 'fisher' else 'add --by fisher'}, or leave the other out"
        )
    if by == "fisher" and as_dense:
        raise UserError("--by fisher with --as-dense: it is of weights that are averaged as they are; leave one out")
    if by == "shares" and (backend != "auto" or device != "auto"):
        raise UserError("--backend and --device without --by fisher: nothing is computed on them; leave them out")
    shares = _shares(weights, len(sources))
    parts = []
    for path, share in zip(sources, shares, strict=True):
        found = open_checkpoint_of(path)
        check_destination(out, found.path, overwrite)
        parts.append(Part(found, share))
    target = decomposed_target(parts, as_dense) if as_dense else parts[0].checkpoint.config
    check_alike(parts, layers=not as_dense)
    if text:
        parts = [Part(part.checkpoint, part.share, _fisher(part.checkpoint, text, backend, device)) for part in parts]
    arrays = averaged_as_dense(parts, target) if as_dense else averaged(parts)
    written = write_merged(parts, out, target, arrays)
    gaps = layer_gaps(parts, Part(written, 1.0))
    answer(as_json, *_answer(written, parts, gaps, by))


def _shares(text: str | None, count: int) -> list[float]:
    """Return the share of each model, all of them together 1."""
    from lost.errors import UserError

    if text is None:
        return [1 / count] * count
    expected = f"expected {count} positive numbers that add up to 1, such as {','.join([f'{1 / count:.3g}'] * count)}"
    try:
        shares = [float(each) for each in text.split(",")]
    except ValueError:
        raise UserError(f"--weights {text}: {expected}") from None
    if len(shares) != count or not all(0 < each < float("inf") for each in shares):
        raise UserError(f"--weights {text}: {expected}; correct them")
    if abs(sum(shares) - 1) > _OFF:
        raise UserError(f"--weights {text}: they add up to {sum(shares):.4g}; {expected}; correct them")
    return [each / sum(shares) for each in shares]


def _fisher(checkpoint: "Checkpoint", text: Path, backend: str, device: str) -> "Mapping[str, np.ndarray]":
    """Return the diagonal Fisher information of each trained parameter, a window of the text at a time."""
    from lost.cli.render.output import note
    from lost.data.evaluation import evaluation_batches
    from lost.engine import backend_module, create_engine, inference_config
    from lost.evaluation.perplexity import text_tokens
    from lost.interop.special_tokens import read_after

    tokenizer = checkpoint.tokenizer()
    tokens, _ = text_tokens(tokenizer, text, note, read_after(tokenizer, checkpoint.progress))
    exact = inference_config(checkpoint.config).replace("train", dtype="float32", param_dtype="float32", z_loss=0.0)
    engine = create_engine(exact, backend, device)
    engine.load(checkpoint.parameters())
    note(f"{checkpoint.path}: gradients of {len(tokens) - 1:,} tokens")
    batches = evaluation_batches(tokens, checkpoint.config.data.seq_len, 1)
    return backend_module(engine.backend).squared_gradients(engine, batches)


def _answer(
    written: "Checkpoint", parts: "Sequence[Part]", gaps: "Sequence[LayerGap]", by: str
) -> tuple[dict[str, Any], list[str]]:
    from dataclasses import asdict

    from lost.cli.render.output import count
    from lost.model.parameters import parameter_table
    from lost.utils.wording import sized

    trained = sum(row.size for row in parameter_table(written.config).values() if row.trained)
    stored = sum(seal["size"] for seal in written.files.values())
    value = {
        "path": str(written.path),
        "parts": [
            {"path": str(e.checkpoint.path), "step": e.checkpoint.progress.step, "share": e.share} for e in parts
        ],
        "by": by,
        "parameters": trained,
        "bytes": stored,
        "layers": [asdict(each) for each in gaps],
    }
    worst, usual = max(gaps, key=lambda each: each.gap), sum(each.gap for each in gaps) / len(gaps)
    lines = [
        *(f"{each.share:.3g} x {each.checkpoint.path}" for each in parts),
        f"-> {written.path}: {count(trained)} parameters, weights alone, {sized(stored)}",
        f"outputs of its layers differ from the average of theirs by {usual:.1%} (the most: {worst.gap:.1%}, "
        f"{worst.name})",
    ]
    return value, lines
