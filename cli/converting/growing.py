"""`lost convert --grow`: a checkpoint of a larger model, and what it came to."""

from typing import Annotated, Literal

import typer

from lost.cli.converting.request import Answer, Job, Request

Grow = Annotated[
    list[str],
    typer.Option(
        metavar="KEY=VALUE",
        help="Grow the model: layers, hidden, intermediate, rank or density, such as layers=12; may be "
        "given several times.",
    ),
]
LayersBy = Annotated[
    Literal["stack", "interleave", "identity"] | None,
    typer.Option(
        help="With --grow layers: repeat the whole stack, or each block in a row; identity: the latter, with "
        "copies that add nothing yet, so that the model computes the same. Default: stack."
    ),
]
Moments = Annotated[
    Literal["drop", "keep"] | None,
    typer.Option(help="With --grow: whether the optimizer's moments grow too; default: drop."),
]


def _grow(request: Request) -> Answer:
    """Grow a checkpoint as `KEY=VALUE` say, and tell both sizes and how to train on."""
    from shlex import quote

    from lost.cli.load import open_checkpoint_of
    from lost.cli.render.output import count
    from lost.errors import UserError
    from lost.planning.budget import budget
    from lost.reshape.grow.checkpoint import grow
    from lost.reshape.grow.target import sizes
    from lost.utils.wording import sized

    asked, depth, moments, out = sizes(request.grow), request.layers_by, request.moments == "keep", request.out
    if depth and "layers" not in asked:
        raise UserError(
            f"--layers-by {depth}, and no layers are added: expected --grow layers=N with it; add it, or leave it out"
        )
    source = open_checkpoint_of(request.source)
    written, goal = grow(source, out, asked, depth or "stack", moments, request.part_bytes, request.overwrite)
    before, after = (budget(each).parameters for each in (goal.old, goal.new))
    total = sum(seal["size"] for seal in written.files.values())
    value = {"path": str(out), "source": str(source.path), "to": "lost", "step": written.progress.step}
    value |= {"grown": asked, "parameters_before": before, "parameters": after, "exact": goal.exact}
    value |= {"optimizer": moments, "bytes": total}
    same = (
        "computes what it did, but for rounding" if goal.exact else f"another function than before ({depth or 'stack'})"
    )
    what = "weights and optimizer state" if moments else "weights"
    option = "--branch-from" if moments else "--init-from"
    further = "--set schedule.steps=N" if moments else "--data DATA"
    lines = [
        f"{source.path} -> {out}: {count(before)} parameters, now {count(after)}; {same}; {what}, {sized(total)}",
        f"train on: lost train {option} {quote(str(out))} {further} --out RUN",
    ]
    return value, lines


JOB = Job(
    "--grow",
    frozenset({"--layers-by", "--moments", "--part-mib"}),
    _grow,
    refuses={
        "--dtype": "a model grows in the type that it has",
        "--weights-only": "moments are left out unless --moments keep",
        "--backend": "nothing is computed",
        "--device": "nothing is computed",
    },
)
