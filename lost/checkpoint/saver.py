"""Saving of a run beside its training: every worker writes its part, sealed once all parts are on disk.

The state is copied first, which is all that training waits for; where memory is short, it waits for all of it.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import numpy as np

from lost import checkpoint
from lost.checkpoint import MODEL, OPTIMIZER, TrainState
from lost.config import Config
from lost.engine import Engine
from lost.errors import LostError, StorageError
from lost.storage.arrays import NamedArrays
from lost.storage.failpoints import failpoint
from lost.storage.files import Seal, begin_dir, publish, storage
from lost.storage.nofollow import remove
from lost.storage.tensors import write_tensors
from lost.tokenizer import Tokenizer
from lost.utils.machine import available_bytes


@dataclass(frozen=True)
class Saved:
    """A finished checkpoint.

    Attributes:
        path: its folder.
        step: of the run.
        stall_seconds: for which training waited.
        seconds: from the beginning to the seal.
    """

    path: Path
    step: int
    stall_seconds: float
    seconds: float


class Saver:
    """Writes the checkpoints of a run, one at a time. All workers call its methods together.

    Args:
        folder: holds the checkpoints.
        config: the run; may be replaced between two saves.
        engine: holds the state.
        tokenizer: of the run.
    """

    def __init__(self, folder: Path, config: Config, engine: Engine, tokenizer: Tokenizer) -> None:
        self._folder, self.config, self._engine, self._tokenizer = folder, config, engine, tokenizer
        self._writing: _Writing | None = None

    def start(self, progress: TrainState) -> None:
        """Begin to save the engine's state; the one before must be finished.

        Raises:
            StorageError: the disk refused; nothing older was touched.
        """
        began, workers = time.perf_counter(), self._engine.workers
        path = checkpoint.checkpoint_path(self._folder, progress.step)
        refused, partial = "", path
        if workers.rank == 0:
            try:
                partial = begin_dir(path)
            except StorageError as error:
                refused = str(error)
        refused, where = json.loads(workers.broadcast(json.dumps([refused, str(partial)])))
        if refused:
            raise StorageError(refused)
        failpoint("save.begun")
        needed = 2 * checkpoint.array_bytes(self.config)
        writes = workers.rank < workers.num_readers
        beside = not workers.any(writes and needed > available_bytes())
        parameters = self._engine.dump() if writes else iter(())
        moments = self._engine.optimizer_state() if writes else iter(())
        writing = _Writing(
            Path(where),
            self._kept(parameters) if beside else parameters,
            self._kept(moments) if beside else moments,
            dict(self._engine.first_rows),
            f"-{workers.rank:05d}" if self._engine.first_rows else "",  # several write, some rows each
            progress,
            began,
        )
        if beside:
            writing.start()
        else:
            writing.run()
            workers.any(False)  # waits for slower disks, for which the collectives of a step might not
        writing.stalled = time.perf_counter() - began
        self._writing = writing

    def finish(self, wait: bool = False) -> Saved | None:
        """Seal what was begun, once all workers have written theirs; None: nothing was begun, or it isn't written yet.

        Args:
            wait: until it is.

        Raises:
            StorageError: the disk of one of them refused, said on all; nothing older was touched.
        """
        writing, workers = self._writing, self._engine.workers
        if writing is None:
            return None
        began = time.perf_counter()
        if wait:
            writing.wait()
        elif workers.all_reduce(writing.is_alive()) > 0:
            return None
        self._writing = None
        told = [json.loads(text) for text in workers.all_gather(json.dumps([writing.fault, writing.files]))]
        faults = [f"rank {rank}: {fault}" if rank else fault for rank, (fault, _) in enumerate(told) if fault]
        if not faults:
            files = {name: Seal(**seal) for _, part in told for name, seal in part.items()}  # type: ignore[typeddict-item]
            faults = [fault for fault in [workers.broadcast(self._seal(writing, files))] if fault]
        if faults:
            if workers.rank == 0:
                remove(writing.partial)
            raise StorageError(f"saving the checkpoint of step {writing.progress.step}: {'; '.join(faults)}")
        now = time.perf_counter()
        path = checkpoint.checkpoint_path(self._folder, writing.progress.step)
        return Saved(path, writing.progress.step, writing.stalled + now - began, now - writing.began)

    def _kept(self, arrays: NamedArrays) -> NamedArrays:
        """Return the arrays in memory that no step changes."""
        return [(name, np.array(array) if self._engine.yields_views else array) for name, array in arrays]

    def _seal(self, writing: "_Writing", files: dict[str, Seal]) -> str:
        """Give the folder its name, let older ones go, and return what went wrong."""
        if self._engine.workers.rank > 0:
            return ""
        step, train = writing.progress.step, self.config.train
        path = checkpoint.checkpoint_path(self._folder, step)
        try:
            with storage(path):
                checkpoint.write_manifest(writing.partial, files, self.config, writing.progress, self._tokenizer)
                failpoint("save.manifest")
                publish(writing.partial, path, replace=True)
                failpoint("save.renamed")
                checkpoint.set_latest(path)
                failpoint("save.latest")
                checkpoint.prune(self._folder, train.keep_last, train.keep_every, step)
        except (StorageError, OSError) as error:  # whatever it is, the others must hear of it
            if writing.partial.exists():
                return str(error)
            return f"the checkpoint is complete, but what comes after it failed: {error}"
        return ""


class _Writing(Thread):
    """One worker's part of a checkpoint on its way to the disk.

    A daemon: who leaves at once doesn't wait for it, and what isn't sealed is swept away by the next start.
    """

    def __init__(
        self,
        partial: Path,
        parameters: NamedArrays,
        moments: NamedArrays,
        first_rows: dict[str, int],
        worker: str,
        progress: TrainState,
        began: float,
    ) -> None:
        super().__init__(name="saving", daemon=True)
        self.partial, self.progress, self.began = partial, progress, began
        self._arrays, self._first_rows, self._worker = (parameters, moments), first_rows, worker
        self.files: dict[str, Seal] = {}
        self.fault, self.stalled = "", 0.0

    def run(self) -> None:
        try:
            with storage(self.partial):
                for stem, arrays in zip((MODEL, OPTIMIZER), self._arrays, strict=True):
                    self.files |= write_tensors(
                        self.partial, f"{stem}{self._worker}", arrays, first_rows=self._first_rows
                    )
                failpoint("save.arrays")
        except LostError as error:
            self.fault = str(error)
        except Exception as error:  # a defect must not pass for a checkpoint
            self.fault = f"{type(error).__name__}: {error}"
        self._arrays = ((), ())  # whose copies take as much memory as the run's state

    def wait(self) -> None:
        """Wait until it is done."""
        if self.ident is not None:
            self.join()
