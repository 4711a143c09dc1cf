"""Progress on screen: a live bar in a terminal, plain lines in a pipe."""

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from lost.cli.render.folding import folded
from lost.cli.render.output import count, duration, number
from lost.tracking import Tracker
from lost.tracking.metrics import kind_of, texts
from lost.utils.printable import JOINERS, printable
from lost.utils.wording import counted, sized

_BAR = "  | "  # before each line of a sample


def _bar_width(console: Console) -> int:
    return min(24, console.width // 5)


def _fitting(parts: Iterable[str], room: int) -> str:
    """Return the first parts, as many as there is room for, each of them whole."""
    shown = ""
    for part in filter(None, parts):
        if len(longer := f"{shown}  {part}" if shown else part) > room:
            break
        shown = longer
    return shown


def _noise(row: dict[str, Any]) -> Iterator[str]:
    scale = "not known yet" if row["noise_scale"] is None else f"{count(row['noise_scale'])} tokens"
    yield f"gradient noise scale {scale} (a step has {count(row['batch_tokens'])})"


def _extremes(row: dict[str, Any]) -> Iterator[str]:
    if rms := [each for each in row["activation_rms"].values() if each is not None]:
        yield f"activations {min(rms):.2f} to {max(rms):.2f}"
    yield f"largest logit {number(row['largest_logit'], 2)}"
    if row["spectral_norm"]:
        name, norm = max(row["spectral_norm"].items(), key=lambda each: each[1])
        yield f"largest singular value {norm:.2f} ({name.removeprefix('model.layers.')})"
        name, rank = min(row["effective_rank"].items(), key=lambda each: each[1])
        yield f"least effective rank {rank:.1f} ({name.removeprefix('model.layers.')})"


def _quoted(prompt: str, text: str, console: Console) -> Text:
    """Return a model's text behind a bar, so that no line of it passes for one of the run; its prompt is bold."""
    whole = Text.assemble((printable(prompt, JOINERS), "bold"), printable(text, JOINERS))
    width = max(1, console.width - len(_BAR))
    lines = whole.wrap(console, width) if console.is_terminal else whole.split(allow_blank=True)
    return Text("\n").join(Text(_BAR) + line for line in lines)


class TrainingScreen(Tracker):
    """Shows a training.

    Args:
        total: the step at which the run ends.
        on_stderr: keep standard output free for the answer.
        quiet: show nothing; of several workers one speaks.
    """

    def __init__(self, total: int, on_stderr: bool, quiet: bool) -> None:
        self._console = Console(stderr=on_stderr, quiet=quiet, highlight=False, soft_wrap=True)
        self._total, self._step, self._phase = total, 0, "starting"
        self._row: dict[str, Any] | None = None  # the last reported step's
        self._began = (0, time.monotonic())  # the step at which the run begins, and when that was
        self._column = BarColumn()
        self._bar = Progress(self._column, TextColumn("{task.description}"), console=self._console, transient=True)
        self._task = self._bar.add_task("", total=total)
        self._draw()

    def live(self) -> AbstractContextManager[object]:
        """Keep the bar on screen; in a pipe there is none."""
        return self._bar if self._console.is_terminal else nullcontext()

    def begin(self, step: int) -> None:
        """Move the bar to where the run begins."""
        self._began = step, time.monotonic()
        self.advance(step)

    def phase(self, name: str) -> None:
        """Show what the run does."""
        self._phase = name
        self._draw()

    def advance(self, step: int) -> None:
        """Move the bar to a step."""
        self._step = step
        self._draw()

    def step(self, row: dict[str, Any]) -> None:
        """Show a reported step: in a terminal beside the bar, until the next one."""
        self._row = row
        self.advance(row["step"])
        if not self._console.is_terminal:
            self._console.print("  ".join([f"step {row['step']}/{self._total}", *self._numbers(row)]), markup=False)

    def validation(self, row: dict[str, Any]) -> None:
        """Show a validation, a line for each text."""
        own = row | {"loss": row["validation_loss"], "tokens": row["validation_tokens"]}
        texts = {"validation": own, **row.get("also_evaluated", {})}
        for name, each in texts.items():
            bits = f"  {each['bits_per_byte']:.4f} bits/byte" if each["bits_per_byte"] else ""
            self.message(
                f"step {row['step']}/{self._total}  {name} loss {number(each['loss'], 4)}  "
                f"perplexity {number(each['perplexity'], 2)}{bits}  over {counted(each['tokens'], 'token')}"
            )

    def measurement(self, row: dict[str, Any]) -> None:
        """Show the noise scale beside the batch, or the extremes of an inspection."""
        parts = _noise(row) if kind_of(row) == "noise" else _extremes(row)
        self.message("  ".join([f"step {row['step']}/{self._total}", *parts]))

    def samples(self, row: dict[str, Any]) -> None:
        """Show what the model wrote."""
        found = texts(row)
        for place, (prompt, text) in enumerate(found, 1):
            self.message(f"step {row['step']}/{self._total}  sample {place} of {len(found)}")
            self._console.print(_quoted(prompt, text, self._console))

    def _numbers(self, row: dict[str, Any]) -> list[str]:
        """Return a reported step's numbers, and the time left from where the run is by now; what matters most first."""
        left = (self._total - self._step) * row["tokens"] / row["step"] / row["tokens_per_second"]
        mean, own = number(row["loss_mean"], 4), number(row["loss"], 4)
        return [
            f"loss {mean}",
            f"{duration(left)} left",
            f"{row['tokens_per_second']:,.0f} tokens/s",
            *([f"MFU {row['mfu']:.1%}"] if "mfu" in row else []),
            *([f"last loss {own}"] if own != mean else []),
            *([f"divergence {number(row['divergence'], 4)}"] if "divergence" in row else []),
            f"lr {row['lr']:.2e}",
            f"grad {number(row['grad_norm'], 2)}",
            sized(row["memory_bytes"]),
        ]

    def _first_numbers(self) -> list[str]:
        """Return the time left, as far as steps that aren't reported yet tell."""
        first, began = self._began
        if self._step == first:
            return []
        return [f"{duration((self._total - self._step) * (time.monotonic() - began) / (self._step - first))} left"]

    def _draw(self) -> None:
        """Show what fits beside the bar: a number is there whole, or not at all."""
        self._column.bar_width = _bar_width(self._console)
        room = self._console.width - self._column.bar_width - 1
        where = f"step {self._step}/{self._total}" if self._step else ""
        phase = self._phase if self._phase != "training" else ""
        numbers = self._numbers(self._row) if self._row else self._first_numbers()
        self._bar.update(self._task, completed=self._step, description=_fitting((where, phase, *numbers), room))

    def message(self, text: str) -> None:
        """Show a sentence, above the bar."""
        self._console.print(folded(text, self._console.file), markup=False)


class PreparationScreen:
    """Shows the phases of `lost prepare`. Implements `lost.prepare.output.ProgressCallback`."""

    _BAR_EVERY, _LINE_EVERY = 0.1, 30.0  # seconds

    def __init__(self, on_stderr: bool) -> None:
        self._console = Console(stderr=on_stderr, highlight=False, soft_wrap=True)
        self._column = BarColumn()
        columns = (
            TextColumn("{task.description}"),
            self._column,
            TimeElapsedColumn(),
            TextColumn("{task.fields[counts]}"),
        )
        self._bar = Progress(*columns, console=self._console)
        self._tasks: dict[str, Any] = {}
        self._began, self._first, self._shown = 0.0, 0, 0.0
        self._reached = ("", 0, 0, 0)  # phase, bytes, documents, tokens: most of it is never drawn

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep the bars on screen; in a pipe there are none."""
        if self._console.is_terminal:
            with self._bar:
                yield
                self._finish()
        else:
            yield

    def message(self, text: str) -> None:
        """Show a sentence, above the bars."""
        self._console.print(folded(text, self._console.file), markup=False)

    def _finish(self) -> None:
        if self._bar.tasks:
            self._draw(time.monotonic())
        for task in self._bar.tasks:
            self._bar.update(task.id, total=task.completed or 1, completed=task.completed or 1)

    def __call__(self, phase: str, done: int, total: int, documents: int = 0, tokens: int = 0) -> None:
        """Show the progress of a phase: bytes done, bytes in all (0 if unknown), documents and tokens in them."""
        now = time.monotonic()
        if phase not in self._tasks:
            if self._console.is_terminal:
                self._finish()
            self._tasks[phase] = self._bar.add_task(phase, total=total or None, counts="")
            self._began, self._first, self._shown = now, done, 0.0 if self._console.is_terminal else now
            if not self._console.is_terminal:
                self._console.print(f"{phase} ...", markup=False)
        self._reached = (phase, done, documents, tokens)
        every = self._BAR_EVERY if self._console.is_terminal else self._LINE_EVERY
        if now - self._shown < every and not done == total > 0:
            return
        self._shown = now
        if self._console.is_terminal:
            self._draw(now)
        else:
            share = f"{done / total:.0%}  " if total else ""
            self._console.print(f"{phase}: {share}{'  '.join(self._counts(now))}", markup=False)

    def _draw(self, now: float) -> None:
        phase, done, _, _ = self._reached
        self._column.bar_width = _bar_width(self._console)
        taken = len("training the tokenizer 0:00:00 ") + self._column.bar_width + 1  # by the longest phase
        counts = _fitting(self._counts(now), self._console.width - taken)
        self._bar.update(self._tasks[phase], completed=done, counts=counts)

    def _counts(self, now: float) -> Iterator[str]:
        _, done, documents, tokens = self._reached
        if documents:
            yield counted(documents, "document")
        if tokens:
            yield f"{count(tokens)} tokens"
        if now > self._began and done > self._first:
            yield f"{(done - self._first) / (now - self._began) / 1e6:.1f} MB/s"


class EvaluationScreen:
    """Shows how far an evaluation is, on the standard error of its creation: lm_eval's own output is dropped."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._tasks: dict[str, Any] = {}

    def live(self) -> AbstractContextManager[object]:
        """Keep the bars on screen; in a pipe there are none."""
        return self._bar if self._console.is_terminal else nullcontext()

    def counting(self, phase: str, tokens: int, total: int | None) -> Callable[[], None]:
        """Return what is to be called before each batch of so many tokens, of `total` in all; None: unknown."""
        batches = itertools.count()

        def show() -> None:
            done = next(batches) * tokens
            if self._console.is_terminal:
                self(phase, min(done, total or done), total)

        return show

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        """Show the progress of a phase: requests answered, or tokens read; and how many there are, if that is known."""
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=total)
            if not self._console.is_terminal:
                self._console.print(f"{phase} ...", markup=False)
        self._bar.update(self._tasks[phase], completed=done)
