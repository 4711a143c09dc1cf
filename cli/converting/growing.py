"""`lost convert --grow`: a checkpoint of a larger model, and what it came to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.reshape.grow.target import Depth


def check_growth(
    assignments: Sequence[str], depth: "Depth | None", moments: str | None, others: Mapping[str, bool]
) -> None:
    """Refuse options that don't go together.

    Args:
        assignments: of --grow.
        depth: of --layers-by.
        moments: of --moments.
        others: options that do something else, and whether each was given.

    Raises:
        UserError: they don't.
    """
    from lost.errors import UserError
    from lost.reshape.grow.target import sizes

    if not assignments:
        option = f"--layers-by {depth}" if depth else f"--moments {moments}"
        raise UserError(f"{option} without --grow: it says how a model grows; add --grow KEY=VALUE, or leave it out")
    if depth and "layers" not in sizes(assignments):
        raise UserError(
            f"--layers-by {depth}, and no layers are added: expected --grow layers=N with it; add it, or leave it out"
        )
    if given := [option for option, is_given in others.items() if is_given]:
        raise UserError(
            f"{', '.join(given)} with --grow: a checkpoint grows into a checkpoint of the same type, without moments "
            "unless --moments keep; expected one thing at a time; leave it out, and convert the result"
        )


def grow_checkpoint(
    source: "Checkpoint",
    out: Path,
    assignments: Sequence[str],
    depth: "Depth | None",
    moments: bool,
    part_bytes: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Grow a checkpoint as `KEY=VALUE` say, and answer with both sizes and how to train on."""
    from shlex import quote

    from lost.cli.render.output import answer, count
    from lost.planning.budget import budget
    from lost.reshape.grow.checkpoint import grow
    from lost.reshape.grow.target import sizes
    from lost.utils.wording import sized

    asked = sizes(assignments)
    written, goal = grow(source, out, asked, depth or "stack", moments, part_bytes, overwrite)
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
    answer(as_json, value, lines)
