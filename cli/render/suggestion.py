"""The answer of `lost plan --suggest`, in words."""

from collections.abc import Iterator
from typing import Any

from lost.cli.render.output import count, duration
from lost.utils.wording import counted

_KNOWN = {"Step Law": "a guess by Step Law", "the configuration": "as configured"}


def suggestion_lines(value: dict[str, Any], data: str) -> Iterator[str]:
    """Yield a line for each thing that is suggested or estimated."""
    model, sizes = value["model"], value["parameters"]
    source = _KNOWN.get(value["rate_from"], f"in proportion to that of {value['rate_from']}")
    rows = [
        (
            "size",
            f"{count(sizes['total'])} parameters, {count(sizes['without_embeddings'])} without embeddings: hidden size "
            f"{model['hidden_size']}, {counted(model['num_hidden_layers'], 'block')}, rank {value['rank']}",
        ),
        (
            "tokens",
            f"{count(value['tokens'])}, {value['tokens_per_parameter_without_embeddings']:.3g} a parameter without "
            "embeddings",
        ),
        ("batch", f"{value['batch_size']} sequences, {count(value['batch_tokens'])} tokens"),
        ("rate", f"{value['lr']:.3g}, {source}"),
        ("steps", f"{value['steps']:,}, the first {value['warmup_steps']:,} of them warm-up"),
        ("time", f"{duration(value['seconds'])}, at {count(value['tokens_per_second'])} tokens/s as measured here"),
        ("text", _text(value["reading"], data)),
    ]
    if value["loss"] is not None:
        between = " ({:.3f} to {:.3f})".format(*value["interval"]) if value["interval"] else ""
        rows.append(("loss", f"{value['loss']:.3f}{between}, by the law of those runs"))
    if value["critical_batch_tokens"] is not None:
        most = count(value["critical_batch_tokens"])
        rows.append(("largest", f"batch that pays: about {most} tokens, an estimate of its order (arXiv 2001.08361)"))
    width = max(len(name) for name, _ in rows)
    yield from (f"{name.ljust(width)}  {text}" for name, text in rows)


def _text(reading: dict[str, Any] | None, data: str) -> str:
    if reading is None:
        return "none is named: --data says how often the run reads it"
    epochs = ", ".join(f"{each:.3g}" for each in reading["epochs"])
    often = f"{epochs} epochs of {data}"
    if max(reading["epochs"]) <= 1:
        return often
    return f"{often}, as good as {count(reading['fresh_tokens'])} tokens never seen before (arXiv 2305.16264)"
