"""`lost inspect`: show the layers of a model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lost.cli.options import AsJson, Model

if TYPE_CHECKING:
    from lost.checkpoint import TrainState


def ancestry(progress: "TrainState") -> Iterator[str]:
    """Yield where a run's weights come from, a line for each run before it, with its data where that is another."""
    data, origin = progress.data, progress.origin
    while origin:
        if origin.parts:
            yield f"the average of {' and '.join(f'{part.share:.3g} x {part.path}' for part in origin.parts)}"
            return
        how = "branched from" if origin.moments else "started with the weights of"
        other = f", trained on {origin.data_path}" if origin.data_path and origin.data != data else ""
        yield f"{how} {origin.path}{other}"
        if origin.omitted:
            yield f"({origin.omitted} more between, which aren't named any more)"
        data, origin = origin.data, origin.before


def inspect(path: Model, as_json: AsJson = False) -> None:
    """Show a model layer by layer.

    kept: input channels kept whole.
    spectrum: the leading `rank` singular values' share of all squared ones (activations taken as the identity).
    eff.: effective rank.
    sparse: the sparse part's share of the layer's squared norm.
    """
    from dataclasses import asdict

    from lost.cli.load import open_model
    from lost.cli.render.output import answer, count, table
    from lost.model.adapted import unquantized
    from lost.model.inspect import inspect_layers
    from lost.model.parameters import parameter_table
    from lost.utils.wording import counted, sized

    source = open_model(path)
    progress = source.progress
    parameters = dict(source.parameters())
    layers = list(inspect_layers(source.config, parameters))
    held = parameter_table(unquantized(source.config)).values()  # few bits are of as many parameters
    total = sum(row.size for row in held if not row.integer)
    stored = sum(source.sizes.values())
    value = {"path": str(source.path), **(asdict(progress) if progress else {}), "parameters": total, "bytes": stored}
    seen = f"step {progress.step}, {count(progress.tokens)} tokens seen, " if progress else ""
    lines = [
        f"{source.path}: {seen}{count(total)} parameters, {sized(stored)} in {counted(len(source.sizes), 'file')}",
        *(ancestry(progress) if progress else []),
        "",
        *table(
            ["layer", "kind", "shape", "rank", "kept", "norm", "spectrum", "eff.", "sparse"],
            [
                [
                    each.name.removeprefix("model.layers."),
                    each.kind,
                    f"{each.shape[0]}x{each.shape[1]}",
                    each.rank or "-",
                    each.channels or "-",
                    "-" if each.norm is None else f"{each.norm:.2f}",
                    "-" if each.spectrum is None else f"{each.spectrum:.1%}",
                    "-" if each.effective_rank is None else f"{each.effective_rank:.1f}",
                    "-" if each.sparse_share is None else f"{each.sparse_share:.1%}",
                ]
                for each in layers
            ],
        ),
    ]
    lines += [
        f"no weight: {kind} has an activation or reads earlier tokens, so it is no one matrix"
        for kind in dict.fromkeys(each.kind for each in layers if each.norm is None)
    ]
    shown = [{key: each for key, each in asdict(layer).items() if key != "singular_values"} for layer in layers]
    answer(as_json, {**value, "layers": shown}, lines)
