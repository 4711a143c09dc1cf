"""THE training loop: evaluate, save, stop, step, report. Written once, for every backend."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lost import checkpoint
from lost.batches import Batch, TrainingStream
from lost.checkpoint import Checkpoint, Progress
from lost.config import Config
from lost.dataset import TRAIN, VALID, Dataset, Split
from lost.engine import Engine, NamedArrays, StepReport
from lost.errors import DivergedError
from lost.evaluate import Evaluation, evaluate
from lost.initial import initial_values
from lost.metrics import MetricsFile, Reporter
from lost.schedule import learning_rate
from lost.workers import shares


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    progress: Progress
    checkpoint: Path
    validation: Evaluation | None
    interrupted: bool


def train(
    config: Config,
    folder: Path,
    dataset: Dataset,
    engine: Engine,
    reporter: Reporter,
    start: Checkpoint | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Result:
    """Train from the seed, or go on from a checkpoint, until the schedule ends, `stop_after`, or a request to stop.

    Args:
        config: the run, its vocabulary known.
        folder: the run folder.
        dataset: prepared text.
        engine: a fresh engine; its workers all call this together.
        reporter: shows the run.
        start: a verified checkpoint of the same configuration; None starts from initial values. Only rank 0's counts.
        stop_requested: asked between steps.

    Raises:
        DivergedError: a reported loss is not finite.
        StorageError: a checkpoint or log could not be written.
    """
    run = _Run(config, folder, dataset, engine, reporter)
    progress = run.begin(start)
    last = config.last_step
    saved_at, saved = progress.step, start.path if start else folder
    validation, interrupted = None, False
    while True:
        step, ending = progress.step, progress.step >= last
        unmeasured = step > 0 and progress.validation_loss is None
        if unmeasured and not interrupted and (ending or _due(step, config.train.eval_every)):
            validation = run.validate(progress)
            progress = replace(progress, validation_loss=validation.loss)
        if step > saved_at and (ending or interrupted or _due(step, config.train.save_every)):
            saved_at, saved = step, run.save(progress)
        if ending or interrupted:
            return Result(progress, saved, validation, interrupted)
        progress, report = run.step(progress)
        interrupted = engine.workers.any(stop_requested()) and progress.step < last
        # What is about to be saved is looked at first: a run that diverged must not overwrite its good checkpoints.
        saving = progress.step >= last or interrupted or _due(progress.step, config.train.save_every)
        if saving or _due(progress.step, config.train.log_every):
            progress = run.report(progress, report)


def open_data(config: Config, dataset: Dataset) -> tuple[TrainingStream, Split]:
    """Return the training samples and the validation text.

    Raises:
        DataError: a split that is missing, damaged, or shorter than one sample.
    """
    return TrainingStream(dataset.split(TRAIN), config.data.seq_len, config.train.seed), dataset.split(VALID)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Run:
    """The parts of a run that the loop puts in order."""

    def __init__(self, config: Config, folder: Path, dataset: Dataset, engine: Engine, reporter: Reporter) -> None:
        self.config, self.folder, self.dataset, self.engine, self.reporter = config, folder, dataset, engine, reporter
        self.stream, self.valid = open_data(config, dataset)
        self.per_step = config.train.batch_size * config.data.seq_len
        self.writes = engine.workers.rank == 0
        self.own_share, self.micro_batch = shares(config, engine.workers.count)

    def begin(self, start: Checkpoint | None) -> Progress:
        progress = start.progress if start else Progress(data=self.dataset.fingerprint)
        progress = Progress(**json.loads(self.engine.workers.share(json.dumps(asdict(progress)))))
        parameters: NamedArrays = ()  # which is all that other ranks pass: theirs come from rank 0
        moments: NamedArrays = ()
        if start:
            parameters, moments = start.parameters(), start.moments()
        elif self.writes:
            parameters = initial_values(self.config)
        self.engine.load(parameters)
        if progress.step:
            self.engine.load_optimizer_state(moments, progress.step)
        self.metrics = MetricsFile(self.folder, progress.step) if self.writes else None
        self._clock, self._clock_step = time.perf_counter(), progress.step
        return progress

    def step(self, progress: Progress) -> tuple[Progress, StepReport]:
        """Take one optimizer step; nothing waits for the device."""
        first = progress.samples
        mine = first + self.engine.workers.rank * self.own_share

        def micro_batches() -> Iterator[Batch]:
            for start in range(mine, mine + self.own_share, self.micro_batch):
                yield self.stream.batch(start, self.micro_batch)

        lr = learning_rate(self.config.optimizer, self.config.schedule, progress.step + 1)
        report = self.engine.step(micro_batches(), self.per_step, lr)
        moved = replace(
            progress,
            step=progress.step + 1,
            samples=first + self.config.train.batch_size,
            tokens=progress.tokens + self.per_step,
            validation_loss=None,
        )
        return moved, report

    def report(self, progress: Progress, report: StepReport) -> Progress:
        """Wait for the device, write and show the step."""
        loss, grad_norm = report.read()
        now = time.perf_counter()
        elapsed, steps = now - self._clock, progress.step - self._clock_step
        self._clock, self._clock_step = now, progress.step
        progress = replace(progress, seconds=progress.seconds + elapsed)
        row = {
            "step": progress.step,
            "loss": loss,
            "lr": learning_rate(self.config.optimizer, self.config.schedule, progress.step),
            "grad_norm": grad_norm,
            "tokens": progress.tokens,
            "tokens_per_second": steps * self.per_step / elapsed,
            "seconds": progress.seconds,
            **self.engine.memory(),
            "samples": [progress.samples - self.config.train.batch_size, progress.samples - 1],
        }
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise DivergedError(
                f"the loss is {loss} and the gradient's norm {grad_norm} at step {progress.step}; expected finite "
                "numbers. Nothing was saved after that; lower optimizer.lr, lengthen schedule.warmup_steps or "
                "lower train.grad_clip, and train again"
            )
        self._write(row)
        self.reporter.step(row)
        return progress

    def validate(self, progress: Progress) -> Evaluation:
        """Evaluate on held-out text."""
        limit = self.config.train.eval_tokens
        tokens = self.valid.read(0, min(self.valid.tokens, limit + 1 if limit else self.valid.tokens))
        began = time.perf_counter()
        whole = self.valid.bytes if len(tokens) == self.valid.tokens else None
        result = evaluate(self.engine, tokens, self.config.data.seq_len, self.micro_batch, text_bytes=whole)
        row: dict[str, Any] = {"step": progress.step, "validation_loss": result.loss, "perplexity": result.perplexity}
        row |= {"bits_per_byte": result.bits_per_byte, "seconds": time.perf_counter() - began}
        self._write(row)
        self.reporter.validation(row)
        self._clock += time.perf_counter() - began  # an evaluation isn't training time
        return result

    def save(self, progress: Progress) -> Path:
        """Write a checkpoint, then let older ones go; return its folder."""
        began, train = time.perf_counter(), self.config.train
        folder = self.folder / "checkpoints"
        if self.writes:
            checkpoint.save(folder, self.engine, self.config, progress, self.dataset.tokenizer)
            checkpoint.prune(folder, train.keep_last, train.keep_every, progress.step)
        self._clock += time.perf_counter() - began
        return checkpoint.place(folder, progress.step)

    def _write(self, row: dict[str, Any]) -> None:
        if self.metrics:
            self.metrics.write(row)
