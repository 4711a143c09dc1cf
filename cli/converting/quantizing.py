"""`lost convert --to mlx-lm --bits`: what is asked for, and the text that the model is evaluated on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lost.cli.converting.request import Need, Request

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.config import Config
    from lost.evaluation.perplexity import Evaluation
    from lost.interop.to_hf.folder import Measure
    from lost.interop.to_hf.quantized import Quantization, Quantized
    from lost.storage.arrays import NamedArrays

Bits = Annotated[
    Literal["4", "8"] | None,
    typer.Option(help="--to mlx-lm: quantize its matrices, by mlx-lm's own quantizer."),
]
GroupSize = Annotated[
    Literal["32", "64", "128"] | None,
    typer.Option(help="With --bits: entries with one scale and bias; default 64. Shorter rows stay as they are."),
]
OPTIONS = frozenset({"--bits", "--group-size", "--text"})
NEEDS = (
    Need("--group-size", ("--bits",), "nothing is quantized"),
    Need("--text", ("--bits",), "there is nothing to measure on it"),
)
_MOST = 50_000  # predictions on the run's validation text


def quantization(request: Request) -> "Quantization | None":
    """Return how an export is to be quantized, if it is."""
    from lost.interop.to_hf.quantized import Quantization

    if request.bits is None:
        return None
    return Quantization(int(request.bits), int(request.group_size or 64))  # type: ignore[arg-type]  # their choices


def measure_on(checkpoint: "Checkpoint", text: Path | None, backend: str) -> "Measure | None":
    """Return what evaluates a model on a text, or on the beginning of the run's validation text; None: none is here.

    Raises:
        DataError: there is no text.
    """
    from lost.cli.render.output import note
    from lost.data.dataset import VALID
    from lost.data.mixture import open_dataset
    from lost.engine import create_engine, inference_config
    from lost.errors import DataError
    from lost.evaluation.perplexity import evaluate, evaluate_split, text_tokens
    from lost.interop.special_tokens import read_after
    from lost.tokenizer import same_ids

    data, size = checkpoint.config.data, checkpoint.config.train.micro_batch
    tokens = split = None
    if text:
        tokenizer = checkpoint.tokenizer()
        tokens, _ = text_tokens(tokenizer, text, note, read_after(tokenizer, checkpoint.progress))
    else:
        try:
            dataset = open_dataset(data)
            if not same_ids(dataset.tokenizer, checkpoint.tokenizer()):
                return None
            split = dataset.split(VALID)
        except DataError:
            return None

    def measure(config: "Config", arrays: "NamedArrays") -> "Evaluation":
        exact = inference_config(config).replace("train", dtype="float32", param_dtype="float32")
        engine = create_engine(exact, backend, "cpu")
        engine.load(arrays)
        if tokens is not None:
            return evaluate(engine, tokens, data.seq_len, size)
        assert split
        return evaluate_split(engine, split, data.seq_len, size, limit=_MOST)

    return measure


def told(found: "Quantized") -> tuple[dict[str, Any], list[str]]:
    """Return what was quantized, as JSON and as lines."""
    how = found.how
    value: dict[str, Any] = {"bits": how.bits, "group_size": how.group_size, "matrices": found.matrices}
    value |= {"kept": found.kept, "bits_per_weight": found.bits_per_weight, "perplexity": None}
    lines = [
        f"{found.matrices} matrices in {how.bits} bits, groups of {how.group_size}: {found.bits_per_weight:.2f} bits a "
        "weight, all arrays counted"
    ]
    if found.kept:
        lines.append(
            f"{len(found.kept)} stay as they were, as {how.group_size} doesn't divide their rows: {found.kept[0]}"
            f"{' and others' if len(found.kept) > 1 else ''}"
            f"{'; --group-size 32 divides more of them' if how.group_size > 32 else ''}"
        )
    if found.before and found.after:
        figures = {"before": found.before.perplexity, "after": found.after.perplexity, "tokens": found.before.tokens}
        value["perplexity"] = figures
        lines.append("perplexity over {tokens:,} tokens: {before:.3f} before, {after:.3f} after".format(**figures))
    return value, lines
