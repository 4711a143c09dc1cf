"""Named arrays in safetensors files: written in parts of bounded size, put together as they are read; also bfloat16.

An array may lie in several files, some rows in each: what each of several workers holds. The file's metadata then says
under `first_rows` where they begin.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes  # noqa: F401  # gives numpy the name bfloat16, by which safetensors looks for it
import numpy as np
import safetensors
import safetensors.numpy

from lost.engine import NamedArrays
from lost.errors import CheckpointError
from lost.failpoints import reach
from lost.files import Seal, seal

PART_BYTES = 1 << 30
_DTYPES = ("F32", "BF16", "I32")
_ROWS = "first_rows"
_NONE: Mapping[str, int] = MappingProxyType({})


def write_tensors(
    folder: Path, stem: str, arrays: NamedArrays, part_bytes: int = PART_BYTES, first_rows: Mapping[str, int] = _NONE
) -> dict[str, Seal]:
    """Write `<stem>-00001.safetensors` and so on, a new file once one holds `part_bytes`.

    Args:
        folder: where to.
        stem: how file names begin.
        arrays: what; those without entries are left out.
        part_bytes: size of a file, exceeded by less than an array.
        first_rows: where the rows begin of which an array holds some, by name.

    Returns:
        Each file's name with the size and checksum of the bytes that were meant to be written.
    """
    seals: dict[str, Seal] = {}
    part: dict[str, np.ndarray] = {}

    def close() -> None:
        name = f"{stem}-{len(seals) + 1:05d}.safetensors"
        rows = {each: first_rows[each] for each in part if each in first_rows}
        content = safetensors.numpy.save(part, {"format": "pt", **({_ROWS: json.dumps(rows)} if rows else {})})
        (folder / name).write_bytes(content)
        seals[name] = seal(content)
        part.clear()
        reach("save.file")

    size = 0
    for name, array in arrays:
        if array.size:
            part[name] = np.ascontiguousarray(array)
            size += array.nbytes
        if size >= part_bytes:
            close()
            size = 0
    if part:
        close()
    return seals


def read_tensors(files: list[Path], reader: int = 0, readers: int = 1) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of all files, each array whole and one in memory at a time; nothing is executed.

    Args:
        files: what to read.
        reader: of several that share the work, which one this is.
        readers: how many they are.

    Raises:
        CheckpointError: a file that is not safetensors, a type that no backend writes, or rows that are missing.
    """
    with ExitStack() as stack:
        places: dict[str, list[tuple[int, Path, Any]]] = {}
        for path in files:
            with _readable(path):
                opened = stack.enter_context(safetensors.safe_open(path, "np"))
                rows = json.loads((opened.metadata() or {}).get(_ROWS, "{}"))
                for name in opened.offset_keys():
                    places.setdefault(name, []).append((int(rows.get(name, 0)), path, opened))
        for name in list(places)[reader::readers]:
            yield name, _together(name, places[name])


def _together(name: str, parts: list[tuple[int, Path, Any]]) -> np.ndarray:
    arrays: list[np.ndarray] = []
    end = 0
    for first, path, opened in sorted(parts, key=lambda part: part[:2]):
        with _readable(path):
            dtype = opened.get_slice(name).get_dtype()
            if dtype not in _DTYPES:
                raise CheckpointError(f"{path}: {name} has type {dtype}; expected one of {', '.join(_DTYPES)}")
            arrays.append(opened.get_tensor(name))
        if first != end:
            raise CheckpointError(f"{path}: {name} begins at row {first}; expected row {end}; use another checkpoint")
        end += len(arrays[-1])
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, safetensors.SafetensorError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} can't be read as safetensors: {error}; use another checkpoint") from None
