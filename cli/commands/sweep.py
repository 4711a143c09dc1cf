"""`lost sweep`: many runs of one configuration, over a grid and in search of a best value."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lost.cli.options import AsJson, Backend, Device, local_path, path_option

if TYPE_CHECKING:
    from lost.sweep.plan import Sweep

_DATA = ("data.path", "data.mixture")  # keys that name what a run reads


def sweep(
    file: Annotated[Path, typer.Argument(parser=local_path, metavar="FILE", help="A sweep's YAML file.")],
    data: Annotated[Path | None, path_option("Folder made by `lost prepare`.")] = None,
    out: Annotated[Path | None, path_option("Folder of all runs and results; default runs/NAME.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time.", min=1, max=1024)] = 1,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Threads of each run on a CPU; default: the cores, divided among jobs.", min=1)
    ] = None,
    sensitive: Annotated[
        bool,
        typer.Option("--sensitivity", help="Also say how far the best value moves, and what a wrong one costs."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a configuration many times, each run a `lost train`.

    FILE has `config` (a YAML file, a shipped name, or sections) and any of: `grid`, keys with lists of values, or named
    settings of several keys; `search`, one key with values to begin with, which are halved and doubled until the best
    is inside; `seeds`, of which the first searches, and the others repeat each best run.

    With --sensitivity, a table by size: the best value of what is searched, and the mean excess loss over the values
    that all places have tried.

    Ctrl-C has the runs save themselves; the same command goes on. The folder has table.md, results.jsonl, loss.png
    (with matplotlib), and the runs, which `lost eval`, `generate` and `fit` take.
    """
    from lost.cli.render.output import answer, note
    from lost.cli.render.output import table as shown
    from lost.cli.render.sweep import SweepScreen, sensitivity_lines
    from lost.storage.lock import locked
    from lost.sweep.plan import read_sweep
    from lost.sweep.report import TABLE, table, write_report
    from lost.sweep.results import CONFIG, Results, check_folder
    from lost.sweep.runner import Runner, work_off
    from lost.sweep.sensitivity import check_searches, sensitivity
    from lost.training.signals import stop_on_signal
    from lost.utils.threads import threads_asked_for

    plan, folder = read_sweep(file), out or Path("runs") / file.stem
    if sensitive:
        check_searches(plan)
    read = _fingerprint(plan, data)
    check_folder(plan, folder)  # before a lock is made in it
    command = [sys.executable, "-m", "lost", "train", str(folder / CONFIG), "--json", "--backend", backend]
    command += ["--device", device, *(["--data", str(data)] if data else [])]
    each = threads or max(1, threads_asked_for() // jobs)
    with locked(folder, note):
        results = Results(plan, folder, read)
        runner = Runner(command, folder, each)
        screen = SweepScreen(results, runner, as_json)

        def keep(name: str, result: dict[str, object]) -> None:
            screen.done(results.keep(name, result, each))
            write_report(results, file.stem)

        with screen.live(), stop_on_signal(screen.message) as asked:
            asked.nothing_to_save = False

            def look() -> bool:
                screen.refresh()
                return asked.requested

            complete = work_off(runner, jobs, lambda: results.due(runner), keep, look)
        write_report(results, file.stem)
    value = {"sweep": str(folder), "complete": complete, "results": results.rows}
    lines = [*shown(*table(results)), "", str(folder / TABLE)]
    if sensitive:
        value["sensitivity"] = rows = sensitivity(results)
        lines += ["", *sensitivity_lines(rows, plan)]
    answer(as_json, value, lines if results.rows else [])
    if not complete:
        screen.message(f"stopped; `lost sweep {file}` with the same options goes on")
        raise typer.Exit(128 + asked.number)


def _fingerprint(plan: "Sweep", data: Path | None) -> str | None:
    """Return the fingerprint of what all runs read; None: the grid says what each of them does.

    Raises:
        DataError: nothing names it, or it can't be used.
        UserError: the grid and --data both do.
    """
    from lost.data.mixture import open_dataset
    from lost.errors import UserError

    key = next((key for cell in plan.cells for key in cell.settings if key.startswith(_DATA)), None)
    if key and data:
        raise UserError(
            f"--data {data}: the grid sets {key}, and every run would read {data} instead; expected what is read to be "
            "named in one place; leave --data out, or that axis"
        )
    if key:
        return None
    return open_dataset(plan.configuration(next(plan.trials({}))).data, data).fingerprint
