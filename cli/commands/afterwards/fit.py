"""`lost fit`: scaling laws of finished runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lost.cli.options import AsJson, local_path

if TYPE_CHECKING:
    from lost.scaling.family import FittedFamily
    from lost.scaling.runs import TrainedRun


def fit(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(parser=local_path, metavar="RUN", help="Run folders, or folders of them.", show_default=False),
    ] = None,
    predict: Annotated[
        list[str],
        typer.Option("--predict", metavar="N,D", help="The loss of N parameters without embeddings after D tokens."),
    ] = [],
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="KIND=RUNS KIND=RUNS", help="Where the curves of two kinds of projection cross."),
    ] = None,
    ends: Annotated[
        bool,
        typer.Option("--ends", help="Take losses at schedules' ends, where rates stay at their peak (constant, wsd)."),
    ] = False,
    annealing: Annotated[
        bool,
        typer.Option("--annealing", help="Fit the loss by the learning rate's schedule instead: runs of one model."),
    ] = False,
    schedules: Annotated[
        list[str],
        typer.Option(
            "--predict-schedule", metavar="CONFIG", help="With --annealing: the loss under CONFIG's schedule."
        ),
    ] = [],
    as_json: AsJson = False,
) -> None:
    """Fit the loss by size and tokens: L(N, D) = E + A/N^a + B/D^b.

    Runs of one kind of projection, on one prepared text, of three sizes or more, each trained on several numbers of
    tokens. N counts parameters without embeddings; a second law has a sixth of a token's FLOPs instead. Of runs whose
    rate is constant, or decays at the end alone (wsd), every validation at the peak rate is taken; of others the last.

    With --compare, both kinds are fitted; RUNS may hold runs of other kinds too. `lost sweep` trains such runs.

    With --annealing, the loss by the schedule is fitted, of runs that differ in nothing else; one is enough if its rate
    falls. The error on held-out runs is reported.
    """
    from lost.cli.render.fit import annealing_lines, comparison_lines, law_lines
    from lost.cli.render.output import answer, note
    from lost.errors import UserError
    from lost.model.load import load_config
    from lost.scaling.report import annealing_report, comparison, far, report

    if schedules and not annealing:
        raise UserError("--predict-schedule was given without --annealing, and would do nothing; add --annealing")
    if annealing and (compare or predict or ends):
        raise UserError("--annealing fits schedules, not sizes; leave out --compare, --predict and --ends")
    if compare:
        if paths or predict:
            raise UserError("--compare names all runs itself, and predicts nothing; leave out RUN and --predict")
        value = comparison(*_compared(compare, ends))
        answer(as_json, value, comparison_lines(value))
        return
    if not paths:
        raise UserError("no run was named; expected run folders, or folders of them, such as `lost fit runs/sweep`")
    if annealing:
        value = annealing_report(_read(paths), {each: load_config(each) for each in schedules})
        answer(as_json, value, annealing_lines(value))
        return
    wanted = [_numbers(each) for each in predict]
    value = report(_fitted(paths, None, ends), wanted)
    for prediction, text in zip(value["predictions"], predict, strict=True):
        if off := far(prediction):
            note(f"--predict {text} is {off} that were trained: no more than a guess")
    answer(as_json, value, law_lines(value))


def _compared(named: tuple[str, str], ends: bool) -> "tuple[FittedFamily, FittedFamily]":
    """Return both kinds, fitted."""
    from lost.errors import UserError
    from lost.scaling.family import check_comparable

    pairs = [each.partition("=") for each in named]
    for kind, equals, path in pairs:
        if not (kind and equals and path):
            raise UserError(
                f"--compare {kind}{equals}{path}: expected KIND=RUNS twice, such as dense=runs/a lost=runs/b"
            )
    if pairs[0][0] == pairs[1][0]:
        raise UserError(f"--compare names {pairs[0][0]} twice; expected two kinds")
    first, second = (_fitted([local_path(path)], kind, ends) for kind, _, path in pairs)
    check_comparable(first.family, second.family)
    return first, second


def _fitted(paths: list[Path], kind: str | None, ends: bool) -> "FittedFamily":
    """Return the laws of the runs in folders, of one kind; runs that don't serve are named."""
    from lost.cli.render.output import note
    from lost.errors import UserError
    from lost.scaling.family import family_of, fitted

    runs = _read(paths)
    wanted = [run for run in runs if kind in (None, run.kind)]
    if not wanted:
        there = ", ".join(dict.fromkeys(run.kind for run in runs))
        named = ", ".join(map(str, paths))
        raise UserError(f"{named}: no finished run of kind {kind}; expected some; there are {there}")
    family, left_out = family_of(wanted, ends)
    for text in left_out:
        note(text)
    return fitted(family)


def _read(paths: list[Path]) -> "list[TrainedRun]":
    """Return the runs in folders; those that don't serve are named.

    Raises:
        UserError: none serves.
    """
    from lost.cli.render.output import note
    from lost.errors import UserError
    from lost.scaling.runs import read_runs

    runs, left_out = read_runs(paths)
    for text in left_out:
        note(text)
    if not runs:
        raise UserError(f"{', '.join(map(str, paths))}: no run there has a validation; expected some; train them first")
    return runs


def _numbers(text: str) -> tuple[float, float]:
    """Return the size and the tokens that `--predict` names."""
    from lost.errors import UserError

    try:
        size, tokens = (float(each) for each in text.split(","))
        if 0 < size < float("inf") and 0 < tokens < float("inf"):
            return size, tokens
    except ValueError:
        pass
    raise UserError(f"--predict {text}: expected parameters and tokens, two positive numbers such as 60e6,1.2e9")
