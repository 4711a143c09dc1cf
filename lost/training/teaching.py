"""`lost teach`: a model's predictions on the training text of a prepared set, for runs that learn from it elsewhere."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lost.data.batch import Batch, SoftTargets, stacked
from lost.data.dataset import TRAIN, Dataset
from lost.data.loader import windows
from lost.data.soft_targets.reader import FORMAT, Description
from lost.data.soft_targets.writer import check_output, write_soft_targets
from lost.data.writer import token_dtype
from lost.engine import Engine
from lost.errors import DataError, UserError
from lost.interop.source import Source
from lost.model.parameters import vocabulary
from lost.training.origin.branch import check_tokenizer
from lost.training.teacher import weights_digest


@dataclass(frozen=True)
class Lesson:
    """What a teacher is to be asked, once it is known that it can be.

    Attributes:
        source: the teacher.
        dataset: the set.
        told: what is to be written, without files.
        out: where.
        overwrite: whether what is there may go.
    """

    source: Source
    dataset: Dataset
    told: Description
    out: Path
    overwrite: bool

    def give(
        self, engine: Engine, batch_size: int, log: Callable[[str], None], advance: Callable[[int], None]
    ) -> Description:
        """Write it all.

        Args:
            engine: holds the teacher.
            batch_size: windows at once.
            log: told what a user should know.
            advance: told how many windows are done.

        Raises:
            DataError, RunBusyError, StorageError: as `write_soft_targets`.
        """
        held = windows(self.dataset.split(TRAIN), self.told.seq_len)

        def predictions(first: int) -> Iterator[SoftTargets]:
            starts = range(first, held.count, batch_size)
            numbers = [range(start, min(start + batch_size, held.count)) for start in starts]
            batches: Iterator[Batch] = (stacked([held.read(number) for number in each]) for each in numbers)
            found = engine.predict(batches, self.told.top_k, self.told.temperature)
            for each, soft in zip(numbers, found, strict=True):
                yield soft
                advance(each.stop)

        return write_soft_targets(self.out, self.told, predictions, self.overwrite, log)


def lesson(
    source: Source, dataset: Dataset, out: Path, seq_len: int, top_k: int, temperature: float, overwrite: bool
) -> Lesson:
    """See that a model can be asked about a set, and read its weights for their identity.

    Raises:
        DataError: the set has another tokenizer, no window, or damaged training text; or something else is at `out`.
        UserError: more is asked for than the model has, or what is no temperature.
    """
    check_output(out, overwrite)
    if not math.isfinite(temperature):
        raise UserError(f"--temperature {temperature}: expected a number above 0; correct it, or leave it out")
    check_tokenizer(source, dataset)
    entries, positions = vocabulary(source.config), source.config.model.max_position_embeddings
    for option, wanted, most in (("--seq-len", seq_len, positions), ("--top-k", top_k, entries)):
        if wanted > most:
            raise UserError(f"{option} {wanted}: {source.path} has {most}; expected no more; lower it")
    _check_text(dataset)
    told = Description(
        format=FORMAT,
        teacher=weights_digest(source),
        origin=str(source.path),
        data=dataset.fingerprint,
        vocab_size=entries,
        seq_len=seq_len,
        top_k=top_k,
        temperature=temperature,
        windows=windows(dataset.split(TRAIN), seq_len).count,
        dtype=token_dtype(entries).name,  # type: ignore[arg-type]
        ids=[],
        log_probabilities=[],
    )
    return Lesson(source, dataset, told, out, overwrite)


def _check_text(dataset: Dataset) -> None:
    """Read all training text: what was predicted on damaged text would be taken for predictions on the intact one.

    Raises:
        DataError: a shard isn't as it was written.
    """
    if damaged := list(dataset.problems(only=TRAIN)):
        raise DataError(
            f"{'; '.join(damaged)}; expected the files as `lost prepare` wrote them; restore them, or prepare them "
            "again"
        )
