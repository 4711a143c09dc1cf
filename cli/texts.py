"""`lost eval` without tasks: the loss on held-out texts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lost.data.dataset import Dataset
    from lost.engine import Engine
    from lost.evaluation.perplexity import Evaluation
    from lost.interop.source import Source

OWN = ""  # the name of the text that was asked for, beside further ones


@dataclass(frozen=True)
class HeldOutText:
    """A text to evaluate.

    Attributes:
        path: where it stands.
        predictions: how many are evaluated; None: unknown.
        all: how many it has; None: that isn't another number.
        unit: what a prediction is called.
        measure: evaluates (engine, context, windows at once), told before each round of batches.
    """

    path: Path
    predictions: int | None
    all: int | None
    unit: str
    measure: "Callable[[Engine, int, int, Callable[[], None]], Evaluation]"


def open_texts(source: "Source", data: Path | None, text: Path | None, whole: bool) -> dict[str, HeldOutText]:
    """Open what is to be evaluated, by name: a text, a prepared set, or what the model's run evaluated in training.

    Args:
        source: of the model.
        data: a prepared set; None: the run's own, and further ones.
        text: a text instead.
        whole: whether all is meant where training evaluates `train.eval_tokens`.

    Raises:
        UserError: the model names no data, and none was given.
        DataError: one can't be used.
    """
    from lost.data.mixture import open_dataset
    from lost.errors import DataError, UserError
    from lost.evaluation.further import further_sets
    from lost.tokenizer import same_ids

    if text:
        return {OWN: _plain(source, text)}
    named = source.config.data.path or source.config.data.mixture
    if not data and (source.progress is None or not named):
        raise UserError(
            f"{source.path} names no data: expected --text with text, or --data with a prepared set; add one"
        )
    dataset, tokenizer = open_dataset(source.config.data, data), source.tokenizer()
    if not same_ids(dataset.tokenizer, tokenizer):
        raise DataError(
            f"{dataset.path} was prepared with another tokenizer than {source.path} was trained with; expected "
            f"the same: prepare it with --tokenizer {source.path}, or use --text"
        )
    try:
        further = {} if data else further_sets(source.config.data, tokenizer)
    except DataError as error:
        raise DataError(f"{error}; --data {dataset.path} evaluates the run's own text alone") from None
    limit = None if data or whole else source.config.train.eval_tokens
    return {name: _prepared(each, limit) for name, each in {OWN: dataset, **further}.items()}


def _plain(source: "Source", path: Path) -> HeldOutText:
    from lost.cli.render.output import note
    from lost.evaluation.perplexity import evaluate, text_tokens
    from lost.interop.special_tokens import read_after

    tokenizer = source.tokenizer()
    tokens, text_bytes = text_tokens(tokenizer, path, note, read_after(tokenizer, source.progress))

    def measure(engine: "Engine", window: int, size: int, check: Callable[[], None]) -> "Evaluation":
        return evaluate(engine, tokens, window, size, text_bytes=text_bytes, check=check)

    return HeldOutText(path, len(tokens) - 1, None, "tokens", measure)


def _prepared(dataset: "Dataset", limit: int | None) -> HeldOutText:
    from lost.data.dataset import VALID
    from lost.evaluation.perplexity import evaluate_split

    split = dataset.split(VALID)

    def measure(engine: "Engine", window: int, size: int, check: Callable[[], None]) -> "Evaluation":
        return evaluate_split(engine, split, window, size, limit=limit, check=check)

    unit, every = "targets" if split.loss_mask else "tokens", split.predictions
    part = limit is not None and limit < every
    predictions = limit if part else every
    return HeldOutText(dataset.path, None if split.loss_mask else predictions, every if part else None, unit, measure)


def run_texts(
    source: "Source", engine: "Engine", texts: Mapping[str, HeldOutText], window: int, size: int, lineage: bool
) -> tuple[dict[str, Any], list[str]]:
    """Evaluate texts, and return the answer as JSON and as lines.

    Args:
        source: of the engine's weights.
        engine: runs the model.
        texts: by name.
        window: tokens read at once.
        size: windows at once.
        lineage: whether to add perplexity as GaLore's scripts print it.
    """
    from lost.cli.render.progress import EvaluationScreen
    from lost.planning.budget import budget

    screen, found = EvaluationScreen(), {}
    with screen.live():
        for name, text in texts.items():
            shown = screen.counting(f"evaluating {name}".rstrip(), window * size, text.predictions)
            found[name] = text.measure(engine, window, size, shown)
    values: dict[str, dict[str, Any]] = {}
    lines = []
    forward = budget(source.config).forward_flops_per_token
    for name, each in found.items():
        values[name] = {"nll": each.nll, "bytes": each.bytes, **each.figures()}
        values[name]["information_capacity"] = each.information_capacity(forward)
        values[name] |= {"text": str(texts[name].path), "of": texts[name].all or each.tokens, "unit": texts[name].unit}
        values[name] |= {"context": window, "batch_size": size}
        bits = "" if each.bits_per_byte is None else f"  {each.bits_per_byte:.4f} bits/byte"
        where = f"{source.path} on" if name == OWN else f"{name},"
        every = texts[name].all
        of = f" of {every:,}" if every else ""
        rest = ", as many as train.eval_tokens says; --whole: all" if every else f", {each.bytes:,} bytes"
        lines += [
            f"{where} {texts[name].path}: {each.tokens:,}{of} {texts[name].unit}{rest}",
            f"loss {each.loss:.4f}  perplexity {each.perplexity:.3f}{bits}",
        ]
    own = found[OWN]
    value: dict[str, Any] = {"checkpoint": str(source.path), **values.pop(OWN)}
    if values:
        value["also_evaluated"] = values
    if lineage:
        value |= {"lineage_perplexity": own.lineage_perplexity, "lineage_batches": own.batches}
        lines.append(
            f"lineage perplexity {own.lineage_perplexity:.3f}: the mean loss times N/(N+1), N = {own.batches} "
            f"batches of {size}, as scripts derived from GaLore print it; only for comparison with papers"
        )
    return value, lines
