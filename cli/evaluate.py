"""`lost eval`: perplexity and bits per byte."""

from pathlib import Path
from typing import Annotated

import typer

from lost.cli.options import AsJson, Backend, Device, RunOrCheckpoint


def evaluate(
    path: RunOrCheckpoint,
    data: Annotated[Path | None, typer.Option(help="Prepared set (its validation split); default: the run's.")] = None,
    text: Annotated[Path | None, typer.Option(help="A raw text file instead.")] = None,
    lineage: Annotated[
        bool, typer.Option("--lineage", help="Also the perplexity as GaLore's descendants compute it (too low).")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(help="Windows at once; default: the run's.", min=1)] = None,
    backend: Backend = "auto",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure perplexity and bits per byte.

    Every token of the text is predicted exactly once; the mean is over tokens; nothing is padded.
    """
    from lost.cli.load import load_model
    from lost.cli.output import answer
    from lost.cli.train import open_data
    from lost.dataset import VALID
    from lost.errors import DataError, UserError
    from lost.evaluate import evaluate as evaluate_tokens
    from lost.evaluate import text_tokens

    if data and text:
        raise UserError("--data and --text were both given; expected one of them")
    checkpoint, engine = load_model(path, backend, device)
    tokenizer = checkpoint.tokenizer()
    if text:
        tokens, text_bytes = text_tokens(tokenizer, text)
    else:
        dataset = open_data(checkpoint.config, data)
        if dataset.tokenizer.fingerprint != checkpoint.tokenizer_fingerprint:
            raise DataError(
                f"{dataset.path} was prepared with another tokenizer than {checkpoint.path} was trained with; expected "
                f"the same: prepare it with --tokenizer {checkpoint.path}, or use --text"
            )
        split = dataset.split(VALID)
        tokens, text_bytes = split.read(0, split.tokens), split.bytes
    size = batch_size or checkpoint.config.train.micro_batch
    result = evaluate_tokens(engine, tokens, checkpoint.config.data.seq_len, size, text_bytes=text_bytes)
    value = {
        "nll": result.nll,
        "tokens": result.tokens,
        "bytes": result.bytes,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
    }
    lines = [
        f"{checkpoint.path} on {text or dataset.path}: {result.tokens:,} tokens, {result.bytes:,} bytes",
        f"loss {result.loss:.4f}  perplexity {result.perplexity:.3f}  {result.bits_per_byte:.4f} bits/byte",
    ]
    if lineage:
        value |= {"lineage_perplexity": result.lineage_perplexity, "lineage_batches": result.batches}
        lines.append(
            f"lineage perplexity {result.lineage_perplexity:.3f}: the mean loss times N/(N+1), N = {result.batches} "
            f"batches of {size}, as GaLore's descendants print it; only for comparison with papers"
        )
    answer(as_json, value, lines)
