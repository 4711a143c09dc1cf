"""Named arrays in safetensors files: written in parts of bounded size, read part by part, bfloat16 included."""

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from lost.engine import NamedArrays
from lost.errors import CheckpointError
from lost.files import Seal, seal

PART_BYTES = 1 << 30
_DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "I32": np.dtype(np.int32)}


def write_tensors(folder: Path, stem: str, arrays: NamedArrays, part_bytes: int = PART_BYTES) -> dict[str, Seal]:
    """Write `<stem>-00001.safetensors` and so on, a new file once one holds `part_bytes`.

    Returns:
        Each file's name with the size and checksum of the bytes that were meant to be written.
    """
    seals: dict[str, Seal] = {}
    part: dict[str, np.ndarray] = {}

    def close() -> None:
        name = f"{stem}-{len(seals) + 1:05d}.safetensors"
        content = safetensors.numpy.save(part, {"format": "pt"})
        (folder / name).write_bytes(content)
        seals[name] = seal(content)
        part.clear()

    size = 0
    for name, array in arrays:
        part[name] = np.ascontiguousarray(array)
        size += array.nbytes
        if size >= part_bytes:
            close()
            size = 0
    if part:
        close()
    return seals


def read_tensors(files: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of all files, one file in memory at a time; nothing is executed.

    Raises:
        CheckpointError: a file that is not safetensors, or a type that no backend writes.
    """
    for file in files:
        try:
            entries = safetensors.deserialize(file.read_bytes())
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{file} can't be read as safetensors: {error}; use another checkpoint") from None
        for name, entry in entries:
            if entry["dtype"] not in _DTYPES:
                raise CheckpointError(f"{file}: {name} has type {entry['dtype']}; expected one of {', '.join(_DTYPES)}")
            yield name, np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
