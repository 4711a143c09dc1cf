"""`lost eval --every-checkpoint`: the same evaluation of each checkpoint that a run holds."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lost.engine import Engine
    from lost.interop.source import Source

    Measure = Callable[[Source, Engine], tuple[dict[str, Any], list[str]]]


def open_every(run: Path) -> "list[Source]":
    """Open each checkpoint of a run that is intact, oldest first; the others are named.

    Raises:
        UserError: it is no run, or holds none; or a launcher started several processes.
    """
    from lost.checkpoint import CHECKPOINTS, checkpoints
    from lost.cli.render.output import note
    from lost.distributed.launcher import check_alone
    from lost.errors import CheckpointError, UserError
    from lost.interop.source import open_source

    check_alone()
    found = []
    for path in checkpoints(run / CHECKPOINTS):
        try:
            found.append(open_source(path))
        except CheckpointError as error:
            note(f"skipped: {error}")
    if not found:
        raise UserError(
            f"--every-checkpoint: {run} holds no checkpoint that is intact; expected a run folder; name one, or leave "
            "the option out"
        )
    return found


def measure_every(
    run: Path, sources: "Sequence[Source]", engine: "Engine", measure: "Measure"
) -> tuple[dict[str, Any], list[str]]:
    """Evaluate each checkpoint that is still there, and return the answer as JSON and as a table.

    What is known of one is shown at once. After Ctrl-C the answer is of those before, and says so (`interrupted`).

    Args:
        run: holds them.
        sources: of the weights; of one model.
        engine: of that model; the weights that it holds are replaced.
        measure: evaluates one, as `lost eval` answers for it.

    Raises:
        CheckpointError: none is there any more.
    """
    from lost.cli.render.output import note, table
    from lost.errors import CheckpointError, LostError

    values: list[dict[str, Any]] = []
    answer = {"run": str(run), "checkpoints": values, "interrupted": False}
    try:
        for number, source in enumerate(sources, 1):
            note(f"{source.path.name}, {number} of {len(sources)}")
            try:
                engine.load(source.parameters())
                value, lines = measure(source, engine)
            except CheckpointError as error:  # a training that goes on keeps the newest alone
                note(f"skipped: {error}")
                continue
            assert source.progress
            values.append({"step": source.progress.step, "tokens_seen": source.progress.tokens, **value})
            note("\n".join(lines))
    except KeyboardInterrupt:
        if not values:
            raise
        answer["interrupted"] = True
        note(f"interrupted: the answer is of {len(values)} of {len(sources)} checkpoints")
    except LostError as error:
        error.known = answer
        raise
    if not values:
        raise CheckpointError(
            f"{run}: none of its checkpoints is there any more; expected them to stay; keep more of them with "
            "train.keep_every, and evaluate again"
        )
    rows = list(_task_rows(values) if "results" in values[0] else _text_rows(values))
    return answer, table(rows[0], rows[1:])


def _text_rows(values: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield the head, and a row a checkpoint: of further texts the loss."""
    from lost.cli.render.output import count

    further = list(values[0].get("also_evaluated", {}))
    yield ["step", "tokens", "loss", "perplexity", "bits/byte", *(f"{name} loss" for name in further)]
    for each in values:
        losses = [f"{each['also_evaluated'][name]['loss']:.4f}" for name in further]
        bits = "" if each["bits_per_byte"] is None else f"{each['bits_per_byte']:.4f}"
        own = [f"{each['loss']:.4f}", f"{each['perplexity']:.3f}", bits]
        yield [str(each["step"]), count(each["tokens_seen"]), *own, *losses]


def _task_rows(values: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield the head, and a row a metric and checkpoint, those of a metric together."""
    from lost.cli.tasks import metrics

    yield ["task", "metric", "step", "value", "stderr"]
    rows = [(each["step"], *row) for each in values for row in metrics(each["results"])]
    for name, metric in dict.fromkeys(row[1:3] for row in rows):
        for step, *own, value, error in rows:
            if own == [name, metric]:
                yield [name, metric, str(step), value, error]
