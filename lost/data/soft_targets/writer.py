"""Writing of soft targets: in parts, each on disk before the next; the folder gets its name once it is complete."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lost.data.batch import SoftTargets
from lost.data.soft_targets.reader import DESCRIPTION, LOG_PROBABILITIES, Description
from lost.errors import DataError, InterruptedAtOnceError
from lost.storage.arrays import is_finite
from lost.storage.files import (
    LOCK,
    Seal,
    digest_error,
    flush,
    partial_folder,
    publish,
    read_sealed_json,
    replace_text,
    sealed_json,
    storage,
)
from lost.storage.lock import locked
from lost.storage.nofollow import check_folder, folder_within, remove, write_new

STATE = "progress.json"
_PART_BYTES = 1 << 26  # of ids; what an interruption costs


def write_soft_targets(
    out: Path,
    told: Description,
    predictions: Callable[[int], Iterator[SoftTargets]],
    overwrite: bool,
    log: Callable[[str], None],
    part_bytes: int = _PART_BYTES,
) -> Description:
    """Write what a teacher predicts for every window of a set; an interrupted call is resumed.

    Args:
        out: the folder.
        told: what is written, without files.
        predictions: yields the soft targets of all windows from a number on, in their order, a batch at a time.
        overwrite: whether a folder that is there, and the beginning of another, may go.
        log: told what a user should know.
        part_bytes: of ids in a file, exceeded by less than a batch.

    Raises:
        DataError: something else is there, or other soft targets and `overwrite` isn't given; or a prediction isn't
            finite.
        InterruptedAtOnceError: Ctrl-C was pressed.
        RunBusyError: another job fills it.
        StorageError: the disk refused.
    """
    check_output(out, overwrite)
    partial = partial_folder(out)
    with storage(partial):
        check_folder(partial)
    with storage(out), locked(partial, log):
        told = _begun(partial, told, overwrite, log)
        if first := _windows(told):
            log(f"going on after window {first} of {told.windows}")
        try:
            for part in _parts(predictions(first), told, part_bytes):
                told = _with_part(partial, told, part)
                replace_text(partial / STATE, sealed_json(told.model_dump(mode="json")).decode())
        except KeyboardInterrupt:
            raise InterruptedAtOnceError("interrupted; run the same command again to resume") from None
        write_new(partial / DESCRIPTION, sealed_json(told.model_dump(mode="json")))
        publish(partial, out, overwrite)
        for name in (STATE, LOCK):
            remove(out / name)
    return told


def check_output(out: Path, overwrite: bool) -> None:
    """See that soft targets may be written at `out`.

    Raises:
        DataError: something else is there, or some and `overwrite` isn't given.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / DESCRIPTION).exists():
        raise DataError(f"--out {out} exists and holds no soft targets; choose another folder")
    if not overwrite:
        raise DataError(f"--out {out} already holds soft targets; choose another folder, or add --overwrite")
    if within := folder_within(out):
        raise DataError(
            f"--out {out} holds the folder {within.name}, which would go with it; move it, or choose another"
        )


def _windows(told: Description) -> int:
    return sum(file.tokens for file in told.ids) // told.seq_len


def _begun(partial: Path, told: Description, overwrite: bool, log: Callable[[str], None]) -> Description:
    """Return what is written already, of the same, up to the first file that isn't as it was; else empty the folder."""
    before: Description | None
    try:
        before = Description.model_validate(read_sealed_json(partial / STATE))
    except (OSError, ValueError):
        before = None if os.path.lexists(partial / STATE) else told  # where there is one, of `lost prepare` perhaps
    if before and before.model_copy(update={"ids": [], "log_probabilities": []}) == told:
        before = _intact(partial, before, log)
        kept = {STATE, LOCK, *(file.name for file in (*before.ids, *before.log_probabilities))}
    elif overwrite:
        before, kept = told, {LOCK}
    else:
        raise DataError(
            f"{partial} holds the beginning of other soft targets; expected the same command, which goes on there; "
            "choose another --out, or add --overwrite to begin anew"
        )
    for path in partial.iterdir():
        if path.name not in kept:
            remove(path)
    return before


def _intact(partial: Path, before: Description, log: Callable[[str], None]) -> Description:
    """Return the parts before the first damaged one."""
    for number, pair in enumerate(zip(before.ids, before.log_probabilities, strict=True)):
        for file in pair:
            if fault := digest_error(partial / file.name, Seal(size=file.size, sha256=file.sha256)):
                log(f"{partial / file.name} {fault}; it and what follows is written anew")
                kept = {"ids": before.ids[:number], "log_probabilities": before.log_probabilities[:number]}
                return before.model_copy(update=kept)
    return before


def _parts(batches: Iterator[SoftTargets], told: Description, part_bytes: int) -> Iterator[SoftTargets]:
    """Yield batches joined to parts."""
    held: list[SoftTargets] = []
    width = np.dtype(told.dtype).itemsize
    for batch in batches:
        held.append(batch)
        if sum(each.ids.size for each in held) * width >= part_bytes:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(held: list[SoftTargets]) -> SoftTargets:
    ids, kept = zip(*((each.ids, each.log_probabilities) for each in held), strict=True)
    return SoftTargets(np.concatenate(ids), np.concatenate(kept))


def _with_part(folder: Path, told: Description, part: SoftTargets) -> Description:
    """Write a part's two files; return the description with them."""
    number, entries = len(told.ids), {}
    arrays: dict[str, tuple[np.ndarray, np.dtype[Any]]] = {"ids": (part.ids, np.dtype(told.dtype).newbyteorder("<"))}
    arrays["log_probabilities"] = (_narrowed(part.log_probabilities), LOG_PROBABILITIES)
    for kind, (array, dtype) in arrays.items():
        name, content = f"{kind}-{number:05d}.bin", array.astype(dtype).tobytes()
        write_new(folder / name, content)
        flush(folder / name)
        counts: dict[str, Any] = {"tokens": part.ids.shape[0] * part.ids.shape[1], "size": len(content)}
        entries[kind] = {"name": name, **counts, "sha256": hashlib.sha256(content).hexdigest()}
    files = told.model_dump(mode="json")
    return Description.model_validate({**files, **{kind: [*files[kind], entries[kind]] for kind in entries}})


def _narrowed(log_probabilities: np.ndarray) -> np.ndarray:
    """Return what float16 can hold: an entry less likely than that, at a low temperature, is as unlikely as it has it.

    Raises:
        DataError: one isn't finite.
    """
    if not is_finite(log_probabilities):
        raise DataError(
            "the model predicts log-probabilities that are not finite; expected numbers; name another model, or raise "
            "--temperature if it is very low"
        )
    return np.maximum(log_probabilities, np.finfo(LOG_PROBABILITIES).min)
