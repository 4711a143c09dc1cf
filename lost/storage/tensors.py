"""Named arrays in safetensors files of bounded size, bfloat16 included.

An array may be split by rows over several files, one for each worker. A file's metadata then lists under `first_rows`
the first row of each array that it holds.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes  # noqa: F401  # gives numpy the name bfloat16, by which safetensors looks for it
import numpy as np
import safetensors
import safetensors.numpy

from lost.errors import CheckpointError
from lost.storage.arrays import NamedArrays
from lost.storage.failpoints import failpoint
from lost.storage.files import Seal, digest_error, flush, seal
from lost.storage.nofollow import open_read, write_new
from lost.utils.parsing import parse_object

PART_BYTES = 1 << 30
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "I32": "int32"}
_OTHER = "use another checkpoint"
_ROWS = "first_rows"
_NONE: Mapping[str, int] = MappingProxyType({})


def write_tensors(
    folder: Path, stem: str, arrays: NamedArrays, part_bytes: int = PART_BYTES, first_rows: Mapping[str, int] = _NONE
) -> dict[str, Seal]:
    """Write `<stem>-00001.safetensors` and so on to disk, a new file once one holds `part_bytes`; read each back.

    Args:
        folder: to write to.
        stem: of the file names.
        arrays: to write; empty ones are left out.
        part_bytes: size of a file, exceeded by less than one array.
        first_rows: the first row of each array of which only some rows are given, by name.

    Returns:
        Each file's name with the size and checksum of its bytes.

    Raises:
        OSError: the disk refused.
        CheckpointError: what was read back is not what was written.
    """
    seals: dict[str, Seal] = {}
    part: dict[str, np.ndarray] = {}

    def close() -> None:
        name = f"{stem}-{len(seals) + 1:05d}.safetensors"
        rows = {each: first_rows[each] for each in part if each in first_rows}
        content = safetensors.numpy.save(part, {"format": "pt", **({_ROWS: json.dumps(rows)} if rows else {})})
        seals[name] = seal(content)
        write_new(folder / name, content)
        part.clear()
        flush(folder / name)
        if fault := digest_error(folder / name, seals[name]):
            raise CheckpointError(f"{folder / name} {fault}, right after it was written: don't trust this disk")
        failpoint("save.file")

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


@dataclass(frozen=True)
class Header:
    """An array as the files' headers describe it: numpy's name of its type, and its shape, all rows together."""

    dtype: str
    shape: tuple[int, ...]


def read_headers(files: list[Path]) -> dict[str, Header]:
    """Return the headers of all arrays, without reading these.

    Raises:
        CheckpointError: as `read_tensors`.
    """
    with ExitStack() as stack:
        return {name: _header(name, parts) for name, parts in _opened(files, stack).items()}


def read_tensors(files: list[Path], rank: int = 0, world_size: int = 1) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of all files, each array whole and one in memory at a time; nothing is executed.

    Args:
        files: what to read.
        rank: this process, of several that share the work.
        world_size: their number.

    Raises:
        CheckpointError: a file that is not safetensors, a type that no backend writes, or rows that are missing.
    """
    with ExitStack() as stack:
        arrays = _opened(files, stack)
        for name in list(arrays)[rank::world_size]:
            _header(name, arrays[name])
            yield name, _joined(name, arrays[name])


@contextmanager
def tensors_by_name(files: list[Path]) -> Iterator[Callable[[str], np.ndarray]]:
    """Yield what reads an array by its name, whole, as `read_tensors` does all of them.

    Raises:
        CheckpointError: as `read_tensors`, or no file holds the array.
    """
    with ExitStack() as stack:
        arrays = _opened(files, stack)

        def read(name: str) -> np.ndarray:
            if name not in arrays:
                raise CheckpointError(f"{files[0].parent if files else 'a checkpoint'} doesn't hold {name}; {_OTHER}")
            _header(name, arrays[name])
            return _joined(name, arrays[name])

        yield read


@dataclass(frozen=True)
class _Part:
    """Some rows of an array, from row `first` on, or all of it, in an opened file."""

    first: int
    path: Path
    opened: Any


def _opened(files: list[Path], stack: ExitStack) -> dict[str, list[_Part]]:
    """Open files until the stack is closed; return the parts of each array in the order of their rows."""
    parts: dict[str, list[_Part]] = {}
    for path in files:
        with _readable(path):
            open_read(path).close()  # no link, no device: the library would open either
            opened = stack.enter_context(safetensors.safe_open(path, "np"))
            rows = parse_object((opened.metadata() or {}).get(_ROWS, "{}"))
            for name in opened.offset_keys():
                first = rows.get(name, 0)
                if type(first) is not int or first < 0:
                    raise CheckpointError(
                        f"{path}: {name} begins at row {first!r}; expected a whole number from 0; {_OTHER}"
                    )
                parts.setdefault(name, []).append(_Part(first, path, opened))
    return {name: sorted(each, key=lambda part: (part.first, part.path)) for name, each in parts.items()}


def _header(name: str, parts: list[_Part]) -> Header:
    """Check that parts make one array, and return its header."""
    end, kinds = 0, set()
    for part in parts:
        with _readable(part.path):
            array = part.opened.get_slice(name)
            dtype, shape = array.get_dtype(), tuple(array.get_shape())
        where = f"{part.path}: {name}"
        if dtype not in _DTYPES:
            raise CheckpointError(f"{where} has type {dtype}; expected one of {', '.join(_DTYPES)}; {_OTHER}")
        if not shape:
            raise CheckpointError(f"{where} is a single number; expected an array with rows; {_OTHER}")
        if part.first != end:
            raise CheckpointError(f"{where} begins at row {part.first}; expected row {end}; {_OTHER}")
        end += shape[0]
        kinds.add((dtype, shape[1:]))
    if len(kinds) > 1:
        raise CheckpointError(f"{parts[0].path}: {name} has rows of several types or widths; {_OTHER}")
    ((dtype, rest),) = kinds
    return Header(_DTYPES[dtype], (end, *rest))


def _joined(name: str, parts: list[_Part]) -> np.ndarray:
    arrays: list[np.ndarray] = []
    for part in parts:
        with _readable(part.path):
            arrays.append(part.opened.get_tensor(name))
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(f"{path} can't be read as safetensors: {reason}; {_OTHER}") from None
