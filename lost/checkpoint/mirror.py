"""Copies of a run's checkpoints elsewhere: made beside the training, verified where they are, and fetched from there.

ADDRESS/checkpoints/step-00000500/  as in a run folder; manifest.json, the seal, is written last
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue, SimpleQueue
from threading import Thread

from lost.checkpoint.changes import same_run
from lost.checkpoint.checkpoint import MANIFEST, Checkpoint, open_checkpoint
from lost.checkpoint.store import CHECKPOINTS, checkpoint_path, checkpoints, expendable, is_checkpoint_name, set_latest
from lost.checkpoint.verify import check_intact
from lost.errors import CheckpointError, LostError, StorageError, UserError
from lost.storage.files import atomic_dir, seal
from lost.storage.nofollow import DOCUMENT_BYTES, read_bytes, write_new
from lost.storage.remote import Remote


class Mirror(Thread):
    """Copies of a run's checkpoints at an address, brought up to date whenever that is asked for.

    Nothing that fails there is raised: `said` tells of it, and the next time all that is missing is tried again.

    Args:
        folder: holds the run's checkpoints.
        remote: where the copies go.
    """

    def __init__(self, folder: Path, remote: Remote) -> None:
        super().__init__(name="mirroring", daemon=True)
        self._folder, self._remote = folder, remote
        self._unsealed: set[str] = set()  # what was begun to be copied
        self._asked: Queue[tuple[int, int]] = Queue()
        self._said: SimpleQueue[str] = SimpleQueue()
        self.start()

    def update(self, keep_last: int, keep_every: int) -> None:
        """Have it brought up to date, and keep there what the run keeps here."""
        self._asked.put((keep_last, keep_every))

    def said(self) -> Iterator[str]:
        """Yield sentences about what failed since the last call."""
        while not self._said.empty():
            yield self._said.get()

    def wait(self) -> None:
        """Wait until all that was asked for is done, or has failed."""
        self._asked.join()

    def run(self) -> None:
        """Do what is asked for, one thing after the other."""
        while True:
            keep = self._asked.get()
            try:
                self._bring_up_to_date(*keep)
            except LostError as error:
                self._said.put(f"not mirrored: {error}. Training goes on, and the next save tries again")
            except Exception as error:  # a defect here must not end a training
                self._said.put(f"not mirrored, by a defect: {type(error).__name__}: {error}. Training goes on")
            finally:
                self._asked.task_done()

    def _bring_up_to_date(self, keep_last: int, keep_every: int) -> None:
        here = []
        for path in reversed(checkpoints(self._folder)):  # the newest first
            with suppress(CheckpointError):  # gone meanwhile, or damaged
                here.append(open_checkpoint(path))
        if not here:
            return
        held, damaged = self._check_own(here[0])
        for each in here:
            with suppress(FileNotFoundError):  # gone meanwhile: newer ones took its place
                self._copy(each)
                held[each.path.name] = each
                if each.path.name in damaged:
                    self._said.put(f"{self._remote.address}/{CHECKPOINTS}/{each.path.name} was damaged: copied anew")
        self._prune([held[name] for name in sorted(held)], keep_last, keep_every, here[0].progress.step)

    def _check_own(self, own: Checkpoint) -> tuple[dict[str, Checkpoint], set[str]]:
        """See that all that is sealed and readable there is of this run, before anything is written or removed.

        Returns:
            It, by name, and the names of what is sealed and can't be read.

        Raises:
            LostError: there is another run's, or the address doesn't answer.
        """
        held, damaged = {}, set()
        for name in _held(self._remote):
            try:
                if manifest := self._remote.read(f"{CHECKPOINTS}/{name}/{MANIFEST}", DOCUMENT_BYTES):
                    held[name] = _opened(name, manifest)
            except CheckpointError:
                damaged.add(name)
        for name, each in held.items():
            if not same_run(each, own):
                raise UserError(
                    f"{self._remote.address}/{CHECKPOINTS}/{name} is a checkpoint of another run; expected an address "
                    "of this run's own; name another"
                )
        return held, damaged

    def _copy(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint that isn't there yet, verify it, and seal it.

        Raises:
            FileNotFoundError: it is gone here.
            LostError: the copy isn't what was written, or the address doesn't answer.
        """
        path = checkpoint.path
        there = f"{CHECKPOINTS}/{path.name}"
        manifest = read_bytes(path / MANIFEST, DOCUMENT_BYTES)
        if not self._remote.fault(f"{there}/{MANIFEST}", seal(manifest)):
            return
        self._unsealed.add(path.name)
        self._remote.remove(there)
        for name, expected in checkpoint.files.items():
            self._remote.put(path / name, f"{there}/{name}")
            if fault := self._remote.fault(f"{there}/{name}", expected):
                raise StorageError(
                    f"{self._remote.address}/{there}/{name} {fault}; expected a copy of {path / name}; check both"
                )
        self._remote.write(f"{there}/{MANIFEST}", manifest)
        if fault := self._remote.fault(f"{there}/{MANIFEST}", seal(manifest)):
            raise StorageError(f"{self._remote.address}/{there}/{MANIFEST} {fault}; expected a copy; check it")
        self._unsealed.remove(path.name)

    def _prune(self, held: list[Checkpoint], keep_last: int, keep_every: int, newest: int) -> None:
        """Remove what the run wouldn't keep here, and what went here while it was copied."""
        names = [each.path.name for each in expendable(held, keep_last, keep_every, newest)]
        for name in (*names, *sorted(self._unsealed)):
            if not (self._folder / name).exists():
                self._remote.remove(f"{CHECKPOINTS}/{name}")
                self._unsealed.discard(name)


def fetch(remote: Remote, run: Path) -> tuple[Checkpoint, list[str]]:
    """Fetch the newest checkpoint that is intact into a run folder that holds none.

    Returns:
        The checkpoint, and why newer ones were skipped.

    Raises:
        CheckpointError: there is none, or the folder holds some.
        NetworkError: the address doesn't answer.
        StorageError: the disk refused.
    """
    folder = run / CHECKPOINTS
    if held := checkpoints(folder):
        raise CheckpointError(f"{run} holds {held[-1].name} already; expected a new folder; choose another --out")
    skipped = []
    for name in reversed(_held(remote)):
        try:
            checkpoint = _fetched(remote, name, folder / name)
        except CheckpointError as error:
            skipped.append(str(error))
            continue
        set_latest(checkpoint.path)
        return checkpoint, skipped
    why = f": {'; '.join(skipped)}" if skipped else ""
    raise CheckpointError(
        f"{remote.address} holds no usable checkpoint{why}; expected what `lost train --mirror` wrote there; check the "
        "address"
    )


def _fetched(remote: Remote, name: str, path: Path) -> Checkpoint:
    """Copy a checkpoint, as long as it is what its manifest says, and see that it may be used."""
    there = f"{CHECKPOINTS}/{name}"
    if not (manifest := remote.read(f"{there}/{MANIFEST}", DOCUMENT_BYTES)):
        raise CheckpointError(f"{remote.address}/{there} isn't sealed: its copy was broken off, or goes on")
    with atomic_dir(path) as partial, _named(partial, f"{remote.address}/{there}"):
        write_new(partial / MANIFEST, manifest)
        checkpoint = open_checkpoint(partial)
        if checkpoint_path(path.parent, checkpoint.progress.step) != path:
            raise CheckpointError(f"{partial} is of step {checkpoint.progress.step}; don't trust it")
        for file, expected in checkpoint.files.items():
            if fault := remote.fault(f"{there}/{file}", expected, partial / file):
                raise CheckpointError(f"{partial / file} {fault}; use another, or restore it")
        check_intact(checkpoint)
    return open_checkpoint(path)


@contextmanager
def _named(folder: Path, address: str) -> Iterator[None]:
    """Have errors name an address instead of the folder that its content is read in, which goes."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(folder), address)) from None


def _held(remote: Remote) -> list[str]:
    return [name for name in remote.names(CHECKPOINTS) if is_checkpoint_name(name)]


def _opened(name: str, manifest: bytes) -> Checkpoint:
    """Return a checkpoint of which the manifest alone is here.

    Raises:
        CheckpointError: it can't be trusted.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.mkdir()
        write_new(path / MANIFEST, manifest)
        return open_checkpoint(path)
