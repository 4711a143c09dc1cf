"""A sweep on screen: what runs and what is done, live in a terminal, a line a run in a pipe."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lost.cli.render.folding import folded
from lost.cli.render.output import count
from lost.cli.render.output import table as shown
from lost.errors import ConfigError
from lost.model.load import load_config
from lost.sweep.plan import Sweep
from lost.sweep.report import table
from lost.sweep.results import Results
from lost.sweep.runner import Runner
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.metrics import read_rows
from lost.training.run_dir import CONFIG
from lost.utils.printable import printable
from lost.utils.wording import counted

_ROWS = 12  # of the best cells that are shown while a sweep runs


class SweepScreen:
    """Shows a sweep.

    Args:
        results: of the sweep.
        runner: its processes.
        on_stderr: keep standard output free for the answer.
    """

    def __init__(self, results: Results, runner: Runner, on_stderr: bool) -> None:
        self._results, self._runner = results, runner
        self._console = Console(stderr=on_stderr, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def live(self) -> AbstractContextManager[object]:
        """Keep the table on screen; in a pipe there is none."""
        return self._live if self._console.is_terminal else nullcontext()

    def message(self, text: str) -> None:
        """Show a sentence, above the table."""
        self._console.print(folded(text, self._console.file), markup=False)

    def done(self, row: dict[str, Any]) -> None:
        """Show a run that has ended."""
        known, needed = len(self._results.rows), len(self._results.trials())
        loss = "diverged" if row["loss"] is None else f"loss {row['loss']:.4f}"
        self.message(f"{row['name']}: {loss} ({known} of {max(known, needed)} done)")

    def refresh(self) -> None:
        """Draw what runs, and the best of what is done."""
        if not self._console.is_terminal:
            return
        running = Table.grid(padding=(0, 2))
        for name in self._runner.running:
            running.add_row(Text(printable(name)), *self._state(name))
        head, rows = table(self._results)
        best = Table(box=None, pad_edge=False)
        for name in head:
            best.add_column(Text(printable(name)))
        for cells in rows[:_ROWS]:
            best.add_row(*(Text(printable(cell)) for cell in cells))
        trials = self._results.trials()
        done = sum(self._results.row(trial) is not None for trial in trials)
        summary = Text(f"{done} of {counted(len(trials), 'run')} done, as far as is known by now")
        self._live.update(Group(running, summary, best), refresh=True)

    def _state(self, name: str) -> tuple[ProgressBar | Text, Text]:
        """Return how far a run is."""
        folder = self._results.folder / name
        try:
            rows = [row for row in read_rows(folder / METRICS) if isinstance(row.get("loss_mean"), float)]
            total = load_config(folder / CONFIG).last_step  # the sweep's own may have a length in tokens
        except (OSError, ConfigError):
            rows, total = [], 0
        if not rows:
            return Text(""), Text("starting")
        last = rows[-1]
        bar = ProgressBar(total=total, completed=last["step"], width=20)
        return bar, Text(f"step {last['step']}/{total}  loss {last['loss_mean']:.4f}")


def sensitivity_lines(rows: Sequence[dict[str, Any]], sweep: Sweep) -> Iterator[str]:
    """Yield a table of the best values by size, and how far they move."""
    yield from shown(
        [*sweep.axes, "parameters", f"best {sweep.key}", "loss", "mean excess"],
        [
            [*row["cell"].values(), count(row["parameters"]), f"{row['best']:g}", f"{row['loss']:.4f}",
             "" if row["sensitivity"] is None else f"{row['sensitivity']:.4f}"]
            for row in rows
        ],
    )  # fmt: skip
    if rows:
        best, tried = [row["best"] for row in rows], ", ".join(f"{value:g}" for value in rows[0]["values"])
        yield f"the best value moves by a factor {max(best) / min(best):g}; excess over {tried or 'no shared value'}"
