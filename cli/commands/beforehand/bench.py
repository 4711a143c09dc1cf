"""`lost bench`: speed and memory of the kinds of projection on this machine."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lost.cli.options import AsJson, Backend, ConfigName, Device, Overrides, Threads

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lost.bench.options import LayerShape

_Column = tuple[str, str, Callable[[Any], str]]  # title, key of the values, formatting

_TIMES: list[_Column] = [
    ("ms", "seconds", lambda times: f"{times['median'] * 1e3:.2f}"),
    ("25-75 %", "seconds", lambda times: f"{times['p25'] * 1e3:.2f}-{times['p75'] * 1e3:.2f}"),
    ("/ dense", "ratio_to_dense", "{:.2f}".format),
    ("/ CoLA", "ratio_to_cola", "{:.2f}".format),
]

# What goes first in a narrow terminal.
_LEAST = ("25-75 %", "saved", "planned", "MFU", "/ CoLA", "FLOP/s", "parameters", "peak")


def bench(
    config: ConfigName = "llama_60m",
    layer: Annotated[bool, typer.Option("--layer", help="Measure only one layer, forward and backward.")] = False,
    model: Annotated[bool, typer.Option("--model", help="Measure only whole optimizer steps; default: both.")] = False,
    kinds: Annotated[str, typer.Option(help="Kinds to compare, separated by commas.")] = "dense,cola,sltrain,lost",
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(help="Type of computation; default: the configuration's, on a CPU float32."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Model: sequences a step; default: one micro-batch (64 if auto), on a CPU 4.")
    ] = None,
    seq_len: Annotated[int | None, typer.Option(help="Model: tokens a sequence; default: the configuration's.")] = None,
    checkpoint_activations: Annotated[
        Literal["none", "narrow", "full"] | None,
        typer.Option(help="Model: what the backward pass recomputes; default: the configuration's."),
    ] = None,
    layer_shape: Annotated[
        str | None, typer.Option(metavar="INxOUT", help="Layer: its inputs and outputs; default: 768x2048.")
    ] = None,
    layer_rank: Annotated[int | None, typer.Option(help="Layer: its rank; default: 256.")] = None,
    layer_density: Annotated[float | None, typer.Option(help="Layer: its density; default: 0.03.")] = None,
    layer_tokens: Annotated[int | None, typer.Option(help="Layer: tokens at once; default: 1024.")] = None,
    rounds: Annotated[
        int | None,
        typer.Option(help="Timed rounds, each with every kind once; default: 25 of the layer, 5 of the model."),
    ] = None,
    overrides: Overrides = [],
    as_json: AsJson = False,
) -> None:
    """Compare kinds of projection on this machine.

    One layer, forward and backward, and one whole optimizer step of a model on random tokens: time, throughput, memory.
    Every round times each kind once, in random order, after untimed rounds; medians and quartiles are shown.
    """
    import sys

    from rich.console import Console

    from lost.bench.compare import Target, measure
    from lost.bench.options import kinds_of, settings
    from lost.cli.render.output import answer, note
    from lost.engine import backend_module, resolve_backend
    from lost.planning.vocabulary import with_vocabulary

    both = layer == model
    of_layer: dict[str, Any] = {
        "shape": layer_shape,
        "rank": layer_rank,
        "density": layer_density,
        "tokens": layer_tokens,
    }
    of_model: dict[str, Any] = {"batch": batch, "seq_len": seq_len, "checkpoint_activations": checkpoint_activations}
    if not (both or layer):
        _refuse("--model", {f"layer_{name}": value for name, value in of_layer.items()})
    if not (both or model):
        _refuse("--layer", of_model)
    compared, shape = kinds_of(kinds), _shape(**of_layer)
    name = resolve_backend(backend)
    target = Target(name, backend_module(name).resolve(device))
    measured = settings(config, overrides, target.device, dtype, **of_model)
    if both or model:
        measured, remark = with_vocabulary(measured)
        if remark:
            note(remark)
    value = measure(
        target,
        measured,
        compared,
        shape if both or layer else None,
        config if both or model else None,
        rounds,
        note,
    )
    if not as_json:
        console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
        for part in _shown(value, console):
            console.print(part)
    answer(as_json, value, [])


def _refuse(only: str, options: dict[str, Any]) -> None:
    """Refuse options of the part that isn't measured."""
    from lost.errors import UserError

    for name, value in options.items():
        if value is not None:
            raise UserError(
                f"--{name.replace('_', '-')} {value} has no effect with {only} alone; leave one of them out"
            )


def _shape(shape: str | None, rank: int | None, density: float | None, tokens: int | None) -> "LayerShape":
    """Return the layer's shape, with defaults for options that are left out."""
    from lost.bench.options import LayerShape
    from lost.errors import UserError

    named: dict[str, Any] = {"rank": rank, "density": density, "tokens": tokens}
    if shape is not None:
        numbers = shape.split("x")
        if len(numbers) != 2 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise UserError(f"--layer-shape {shape}: expected INxOUT, such as 768x2048")
        named |= {"in_features": int(numbers[0]), "out_features": int(numbers[1])}
    return LayerShape(**{name: value for name, value in named.items() if value is not None})


def _shown(value: dict[str, Any], console: "Console") -> "Iterator[str | Table]":
    """Yield the answer for a terminal."""
    from lost.cli.render.output import count
    from lost.utils.wording import counted, sized

    versions = ", ".join(f"{name} {version}" for name, version in value["versions"].items())
    threads = f", {counted(value['threads'], 'thread')}" if value["threads"] else ""
    where = f"{value['device']}: {value['device_name']}{threads}"
    yield f"{versions}; {where}; computed in {value['dtype']}, weights in {value['param_dtype']}"
    if layer := value["layer"]:
        yield (
            f"\nlayer: {layer['in_features']} to {layer['out_features']}, rank {layer['rank']}, density "
            f"{layer['density']}, {layer['tokens']:,} tokens; forward and backward, {counted(layer['rounds'], 'round')}"
        )
        yield _table(
            layer["results"],
            [*_TIMES, ("FLOP/s", "flops_per_second", count), ("saved", "saved_bytes", sized)],
            console,
        )
    if model := value["model"]:
        yield (
            f"\nmodel: {model['config']}, {model['batch_size']} x {model['seq_len']} tokens a step, "
            f"{counted(model['micro_batch_size'], 'sequence')} at once, activations checkpointed: "
            f"{model['checkpoint_activations']}; {counted(model['rounds'], 'round')}"
        )
        more: list[_Column] = [
            ("tokens/s", "tokens_per_second", lambda rate: f"{rate:,.0f}"),
            ("MFU", "mfu", lambda share: f"{share:.1%}"),
            ("peak", "peak_memory_bytes", sized),
            ("planned", "planned_memory_bytes", sized),
            ("saved", "saved_bytes", sized),
            ("parameters", "parameters", count),
        ]
        yield _table(model["results"], [*_TIMES, *more], console)
        yield f"peak: {model['peak_memory_is']}; planned: what `lost plan` expects"
    rows = [row for part in (value["layer"], value["model"]) if part for row in part["results"].values()]
    saved = "; saved: bytes kept from the forward for the backward pass"
    yield f"times: median and quartiles{saved if any(row['saved_bytes'] is not None for row in rows) else ''}"


def _table(results: dict[str, dict[str, Any]], columns: list[_Column], console: "Console") -> "Table":
    """Return a table with one row a kind, without columns whose values are unknown or for which it is too narrow."""
    from rich import box
    from rich.table import Table

    known = [each for each in columns if all(row[each[1]] is not None for row in results.values())]
    table = Table("kind", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title, _, _ in known:
        table.add_column(title, justify="right", no_wrap=True)
    for kind, row in results.items():
        table.add_row(kind, *(write(row[key]) for _, key, write in known))
    least = min(known, key=lambda each: _LEAST.index(each[0]) if each[0] in _LEAST else len(_LEAST))
    whole = console.measure(table, options=console.options.update(max_width=1000)).maximum
    if whole > console.width and least[0] in _LEAST:
        return _table(results, [each for each in known if each is not least], console)
    return table
