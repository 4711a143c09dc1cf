"""`lost inspect`: show the layers of a checkpoint."""

from lost.cli.options import AsJson, RunOrCheckpoint


def inspect(path: RunOrCheckpoint, as_json: AsJson = False) -> None:
    """Show a checkpoint layer by layer.

    spectrum: the leading `rank` singular values' share of all squared ones (activations taken as the identity).
    sparse: the sparse part's share of the layer's squared norm.
    """
    from dataclasses import asdict

    from lost.cli.render.output import answer, count, note, size, table
    from lost.model.inspect import inspect_layers
    from lost.training.run_dir import find_checkpoint

    checkpoint, rejected = find_checkpoint(path)
    for reason in rejected:
        note(f"skipped: {reason}")
    parameters = dict(checkpoint.parameters())
    layers = list(inspect_layers(checkpoint.config, parameters))
    trained = sum(array.size for array in parameters.values() if array.dtype.kind != "i")
    stored = sum(seal["size"] for seal in checkpoint.files.values())
    progress, origin = asdict(checkpoint.progress), checkpoint.progress.origin
    value = {"path": str(checkpoint.path), **progress, "parameters": trained, "bytes": stored}
    lines = [
        f"{checkpoint.path}: step {checkpoint.progress.step}, {count(checkpoint.progress.tokens)} tokens seen, "
        f"{count(trained)} parameters, {size(stored)} in {len(checkpoint.files)} files",
        *([f"started with the weights of {origin.path}"] if origin else []),
        "",
        *table(
            ["layer", "kind", "shape", "rank", "channels", "norm", "spectrum", "eff. rank", "sparse"],
            [
                [
                    each.name.removeprefix("model.layers."),
                    each.kind,
                    f"{each.shape[0]}x{each.shape[1]}",
                    each.rank or "-",
                    each.channels or "-",
                    f"{each.norm:.2f}",
                    "-" if each.spectrum is None else f"{each.spectrum:.1%}",
                    f"{each.effective_rank:.1f}",
                    "-" if each.sparse_share is None else f"{each.sparse_share:.1%}",
                ]
                for each in layers
            ],
        ),
    ]
    answer(as_json, {**value, "layers": [asdict(each) for each in layers]}, lines)
