"""What a training consists of, which the loop (`trainer`) puts in order: step, report, evaluate, measure, save."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lost import checkpoint
from lost.bench.compare import Target
from lost.checkpoint import CHECKPOINTS, BestLoss, Checkpoint, TrainState
from lost.checkpoint.mirror import Mirror
from lost.checkpoint.saver import Saver
from lost.config import Config
from lost.data.dataset import VALID, Dataset, Split
from lost.data.loader import SampleStream
from lost.data.mixture import training_stream
from lost.data.soft_targets.reader import SoftTargetSet
from lost.engine import Engine, StepResult
from lost.errors import (
    StorageError,
)
from lost.evaluation.inspection import first_window, inspect_model
from lost.evaluation.perplexity import Evaluation, evaluate_split
from lost.generation.samples import write_samples
from lost.model.init import initial_values
from lost.optim.gradients.noise_scale import GradientNoise, estimates
from lost.optim.rates.schedule import learning_rate
from lost.planning.peak_flops import tokens_at_peak
from lost.storage.arrays import NamedArrays
from lost.storage.failpoints import failpoint
from lost.tracking import KINDS as TRACKERS
from lost.tracking import Tracker, Trackers
from lost.tracking.metrics import MetricsFile
from lost.training.endings import diverged, stopping_early
from lost.training.micro_batches import MicroBatches
from lost.training.profile import Profile, Tracing
from lost.training.signals import Stop
from lost.training.teacher import Teacher
from lost.utils.parsing import finite
from lost.utils.threads import busy_remark
from lost.utils.wording import counted


def open_data(config: Config, dataset: Dataset, soft: SoftTargetSet | None = None) -> tuple[SampleStream, Split]:
    """Return the training samples, with soft targets where there are any, and the validation text.

    Raises:
        DataError: a split that is missing, damaged, or shorter than one sample.
    """
    return training_stream(dataset, config.data.seq_len, config.train.seed, soft), dataset.split(VALID)


def due(step: int, every: int) -> bool:
    """Whether something that is done every so many steps is done after this one; 0: never."""
    return every > 0 and step % every == 0


class StoppedError(Exception):
    """An evaluation was told to stop."""


class Run:
    """The parts of a run that the loop puts in order."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        dataset: Dataset,
        engine: Engine,
        tracker: Tracker,
        adapts: bool,
        further: Mapping[str, Dataset],
        mirror: Mirror | None = None,
        tracing: Tracing | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.mirror, self.teacher = mirror, teacher
        self.config, self.folder, self.dataset, self.engine = config, folder, dataset, engine
        first = engine.workers.rank == 0
        own = [MetricsFile(folder)] if first else []  # before the screen: what is shown is on disk
        others = {name: TRACKERS[name](folder, config, each) for name, each in config.tracking.items() if first}
        self.tracker = Trackers(*own, tracker, others=others, refused=self._refused)
        self.stream, self.valid = open_data(config, dataset, teacher.targets if teacher else None)
        self.further = {name: each.split(VALID) for name, each in further.items()}
        self.per_step = config.tokens_per_step
        beside = teacher.memory(config) if teacher else 0
        self.micro_batches = MicroBatches(config, self.stream, engine, adapts, self.tracker.message, beside)
        self._profile = Profile(folder, tracing, self.tracker.message) if tracing and first else None
        self._doing, self._first = "training", True
        self._unread: list[StepResult] = []  # of the steps since the device was last waited for
        self._losses: list[float] = []  # of those before, back to the last row

    def begin(self, start: Checkpoint | None) -> TrainState:
        """Fill the engine; every worker that has files brings a part of what is in them."""
        workers = self.engine.workers
        progress = start.progress if start else TrainState(data=self.dataset.fingerprint)
        path, fields = json.loads(
            workers.broadcast(json.dumps([start and str(start.path.absolute()), asdict(progress)]))
        )
        progress = TrainState.parse(fields)
        self.tracker.phase("reading the checkpoint" if path else "computing initial weights")
        parameters: NamedArrays = ()
        moments: NamedArrays = ()
        if workers.rank < workers.num_readers and path:
            start = start or checkpoint.open_checkpoint(Path(path))  # which rank 0 has verified
            parameters = start.parameters(workers.rank, workers.num_readers)
            moments = start.moments(workers.rank, workers.num_readers)
        elif workers.rank < workers.num_readers:
            parameters = initial_values(self.config, workers.rank, workers.num_readers)
        self.engine.load(parameters)
        if progress.has_moments:
            self.engine.load_optimizer_state(moments, progress.updates)
        self.engine.guard.restore(progress.guard)
        if self.teacher:
            self.tracker.phase("reading the teacher")
            self.teacher.load(self.engine, self.config)
        progress = self._with_threads(replace(progress, teacher=self.teacher.identity if self.teacher else None))
        self.tracker.begin(progress.step)
        self.saver = Saver(self.folder / CHECKPOINTS, self.config, self.engine, self.dataset.tokenizer)
        self.saved_at, self.saved = progress.step, start.path if start else self.folder
        if start:
            self._mirror()  # what could not be, before
        self.loss: float | None = None
        self._clock, self._clock_step = time.perf_counter(), progress.step
        self._at_peak = _tokens_at_peak(self.config, self.engine)
        return progress

    def _with_threads(self, progress: TrainState) -> TrainState:
        """Note the number of threads, and say so if it isn't the one before: sums are then rounded otherwise."""
        now, before = self.engine.threads, progress.threads
        if progress.step >= self.config.last_step:
            return progress  # which no thread will change
        if now and before and now != before:
            self.tracker.message(
                f"trained with {counted(before, 'thread')} so far, and now with {now}: the run goes on, but won't end "
                f"bit for bit where it would have; --threads {before} keeps to it"
            )
        if now and (remark := busy_remark(now)):
            self.tracker.message(remark)
        return replace(progress, threads=now)

    def step(self, progress: TrainState) -> tuple[TrainState, StepResult]:
        """Take one optimizer step; nothing waits for the device."""
        if self._profile:
            self._profile.before(progress.step + 1, self._aside)
        first = progress.samples
        lr = learning_rate(self.config.optimizer, self.config.schedule, progress.step + 1)
        predictions = self.stream.predictions(first, self.config.train.batch_size)  # of all workers together
        beginning = "compiling" if self.engine.compiled else "waiting for the first step"
        planned = self.micro_batches.size
        with self._phase(beginning) if self._first else nullcontext():
            report = self.micro_batches.step(first, predictions, lr)
        if (size := self.micro_batches.size) != planned:  # checkpoints remember it
            self.config = self.saver.config = self.config.replace("train", micro_batch_size=size)
        self._first = False
        if self._profile:
            self._profile.after(report, self._aside)
        self._unread.append(report)
        self.tracker.advance(progress.step + 1)
        moved = replace(
            progress,
            step=progress.step + 1,
            samples=first + self.config.train.batch_size,
            tokens=progress.tokens + self.per_step,
            validation_loss=None,
        )
        return moved, report

    def close(self, failed: bool) -> None:
        """Let go of the data, the trackers and a profile that is being made."""
        if self._profile:
            self._profile.close()
        self.micro_batches.close()
        if failed:
            self.tracker.failed()
        self.tracker.close()

    def report(self, progress: TrainState, report: StepResult) -> TrainState:
        """Wait for the device, write and show the step."""
        loss, grad_norm = report.wait()
        self._read_losses()
        mean = sum(self._losses) / len(self._losses)
        self._losses.clear()
        self.loss = finite(loss)
        now = time.perf_counter()
        elapsed, steps = now - self._clock, progress.step - self._clock_step
        self._clock, self._clock_step = now, progress.step
        progress = replace(progress, seconds=progress.seconds + elapsed)
        first = progress.samples - self.config.train.batch_size
        row = {
            "step": progress.step,
            "loss": loss,
            "loss_mean": mean,
            "lr": learning_rate(self.config.optimizer, self.config.schedule, progress.step),
            "grad_norm": grad_norm,
            "tokens": progress.tokens,
            "tokens_per_second": steps * self.per_step / elapsed,
            **({"mfu": steps * self.per_step / elapsed / self._at_peak} if self._at_peak else {}),
            "seconds": progress.seconds,
            **self.engine.memory(),
            "samples": [first, progress.samples - 1],
            "skipped": self.engine.guard.state().skipped,
        }
        if self.stream.has_mask:
            row["targets"] = self.stream.predictions(first, self.config.train.batch_size)
        if report.divergence:
            row["divergence"] = report.divergence()
        self.tracker.step(finite(row))
        return self.check(progress, report)

    def check(self, progress: TrainState, report: StepResult) -> TrainState:
        """Wait for the device, and see whether updates are still applied.

        Raises:
            DivergedError: too many were left out in a row.
        """
        guard, before = self.engine.guard.state(), progress.guard
        self._read_losses()
        if guard.in_a_row >= self.config.train.max_skipped:
            raise diverged(progress, self.engine, report.wait(), None if self.saved == self.folder else self.saved)
        if guard.skipped > before.skipped:
            self.tracker.message(
                f"up to step {progress.step}: {counted(guard.skipped - before.skipped, 'update')} skipped, as their "
                "gradients were not finite or were far larger than usual"
            )
        return replace(progress, guard=guard)

    def _read_losses(self) -> None:
        """Take the losses of all steps so far, where the device was waited for."""
        self._losses += [each.wait()[0] for each in self._unread]
        self._unread.clear()

    def validate(self, progress: TrainState, stop: Callable[[], bool]) -> tuple[Evaluation, dict[str, Evaluation]]:
        """Evaluate on held-out text, the data's own and that of further sets.

        Raises:
            StoppedError: a stop was requested before the end.
        """

        def check() -> None:
            failpoint("evaluation.round")
            if stop():
                raise StoppedError

        def measured(split: Split) -> Evaluation:
            size, limit = self.config.data.seq_len, self.config.train.eval_tokens
            return evaluate_split(self.engine, split, size, self.micro_batches.size, limit=limit, check=check)

        with self._aside("evaluating") as seconds:
            result, further = measured(self.valid), {name: measured(split) for name, split in self.further.items()}
            row: dict[str, Any] = {"step": progress.step, "validation_loss": result.loss}
            row |= {"perplexity": result.perplexity, "bits_per_byte": result.bits_per_byte}
            row |= {"validation_tokens": result.tokens, "seconds": seconds()}
            if further:
                row["also_evaluated"] = {name: each.figures() for name, each in further.items()}
            self.tracker.validation(finite(row))
        return result, further

    def inspect(self, progress: TrainState) -> None:
        """Look at the model's activations and weights; the others wait for rank 0 where they meet next."""
        if self.engine.workers.rank:
            return
        with self._aside("inspecting") as seconds:
            row = inspect_model(self.engine, self.config, first_window(self.valid, self.config.data.seq_len))
            self.tracker.measurement(finite({"step": progress.step, **row, "seconds": seconds()}))

    def sample(self, progress: TrainState, asked: Stop) -> None:
        """Have the model write texts; nothing is told of them if a stop is asked for meanwhile.

        Where each worker has all of the model, rank 0 writes, and the others wait as above.
        """
        workers = self.engine.workers
        if workers.rank >= workers.num_readers:
            return

        def check() -> None:
            failpoint("sample.piece")
            if asked.requested if workers.num_readers == 1 else workers.any(asked.requested):
                raise StoppedError

        with suppress(StoppedError), self._aside("writing samples") as seconds:
            texts = write_samples(self.engine, self.config, self.dataset.tokenizer, progress.step, check)
            self.tracker.samples({"step": progress.step, "texts": texts, "seconds": seconds()})

    def measure_noise(self, progress: TrainState) -> TrainState:
        """Measure the gradients' noise, on what the next step will read: on what the last one has read it is less."""
        with self._aside("measuring the gradients' noise") as seconds:
            parts, whole, counts = self.micro_batches.gradient_squares(progress.samples)
            square, variance = estimates(parts, whole, counts)
            noise = (progress.noise or GradientNoise()).after(square, variance)
            row: dict[str, Any] = {"step": progress.step, "gradient_square": square, "gradient_variance": variance}
            row |= {"noise_scale": noise.scale, "batch_tokens": sum(counts), "seconds": seconds()}
            self.tracker.measurement(finite(row))
        return replace(progress, noise=noise)

    def judge(self, progress: TrainState) -> TrainState:
        """Note whether a validation was better than those before, where early stopping goes by it.

        Only those that are due count: a run that `stop_after` has stopped meanwhile ends where it would have.
        """
        rule, loss = self.config.train.early_stop, progress.validation_loss
        if rule is None:
            return replace(progress, best=None)
        if not due(progress.step, self.config.train.eval_every):
            return progress
        progress = replace(progress, best=(progress.best or BestLoss()).after(loss, progress.step, rule))
        if progress.step < self.config.last_step and progress.stops_early(rule):
            self.tracker.message(stopping_early(progress, rule))
        return progress

    def save(self, progress: TrainState, last: bool) -> None:
        """Begin to write a checkpoint beside the training; the last one of a run is waited for.

        Raises:
            StorageError: the disk refused, and the run is to stop then, or has nothing more to do.
        """
        with self._phase("saving"):
            self.finish_saving(wait=True)  # which doesn't count its own time
            began = time.perf_counter()
            self.saved_at = progress.step
            with self._tolerated(last):
                self.saver.start(progress)
            self._clock += time.perf_counter() - began
            if last:
                self.finish_saving(wait=True, last=True)

    def finish_saving(self, wait: bool = False, last: bool = False) -> None:
        """Note a checkpoint that has been written, and what was said of mirroring."""
        self._retell()
        began = time.perf_counter()
        with self._phase("saving") if wait else nullcontext(), self._tolerated(last):
            if saved := self.saver.finish(wait):
                self.saved = saved.path
                self._mirror()
                row = {"stall_seconds": saved.stall_seconds, "seconds": saved.seconds}
                self.tracker.checkpoint({"step": saved.step, "checkpoint": saved.path.name, **row})
        self._clock += time.perf_counter() - began

    def _mirror(self) -> None:
        if self.mirror:
            self.mirror.update(self.config.train.keep_last, self.config.train.keep_every)

    def _retell(self) -> None:
        for text in self.mirror.said() if self.mirror else ():
            self.tracker.message(text)

    @contextmanager
    def _aside(self, name: str) -> Iterator[Callable[[], float]]:
        """Do what isn't training time; yields what tells the seconds that it has taken so far."""
        began = time.perf_counter()
        try:
            with self._phase(name):
                yield lambda: time.perf_counter() - began
        finally:  # also if it was told to stop
            self._clock += time.perf_counter() - began

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        before, self._doing = self._doing, name
        self.tracker.phase(name)
        try:
            yield
        finally:
            self._doing = before
            self.tracker.phase(before)

    @contextmanager
    def _tolerated(self, last: bool) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            if last:
                raise
            self._refused(error)
            self.tracker.checkpoint({"step": self.saved_at, "save_error": str(error)})

    def _refused(self, error: StorageError) -> None:
        """Go on without what the disk refused, a checkpoint or a row, where that is wanted."""
        if self.config.train.on_save_error == "stop":
            raise error
        self.tracker.message(f"{error} Training goes on (train.on_save_error = continue)")


def _tokens_at_peak(config: Config, engine: Engine) -> float | None:
    """Return the tokens a second at which MFU would be 1; None: not known, as of anything but some CUDA cards."""
    machine = Target(engine.backend, engine.device).bench.machine(engine.device)
    return tokens_at_peak(config, engine.device, machine.device_name, engine.workers.world_size)
