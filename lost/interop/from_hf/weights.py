"""The arrays of a folder: one safetensors file, or those that an index names, read on demand.

Pickled checkpoints are refused: reading one can run any code.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # gives numpy the name bfloat16, by which safetensors looks for it
import numpy as np
import safetensors

from lost.config import DType
from lost.errors import CheckpointError
from lost.storage.nofollow import DOCUMENT_BYTES, check_inside, read_inside
from lost.utils.parsing import parse_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DTYPES = ("F32", "F16", "BF16")
_INDICES = (".channels", ".indices")  # how the names of arrays end that exports of ours hold in int32


class Weights:
    """Arrays by name.

    Attributes:
        shapes: of every array.
        dtype: bfloat16 if all arrays but indices have it, else float32, which also holds float16 exactly.
        sizes: of its files in bytes, by name.

    Raises:
        CheckpointError: no weights, pickled ones, a missing or damaged file, or an unsupported type.
    """

    def __init__(self, folder: Path) -> None:
        self._homes: dict[str, tuple[Path, Any]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        listed = {name: path for name, path in _listed(folder).items() if not _derived(name)}
        types = set()
        for path in sorted(set(listed.values())) or [folder / SINGLE]:
            opened = _opened(path, folder)
            for name in opened.keys():  # noqa: SIM118 - a handle, not a mapping
                if (listed and listed.get(name) != path) or _derived(name):
                    continue
                part = opened.get_slice(name)
                allowed = ("I32",) if name.endswith(_INDICES) else _DTYPES
                if part.get_dtype() not in allowed:
                    raise CheckpointError(
                        f"{path}: {name} has type {part.get_dtype()}; expected {' or '.join(allowed)}; use the "
                        "unquantized model"
                    )
                types.update({part.get_dtype()} - {"I32"})
                self._homes[name], self.shapes[name] = (path, opened), tuple(part.get_shape())
        if missing := sorted(set(listed) - set(self._homes)):
            raise CheckpointError(
                f"{listed[missing[0]]} doesn't hold {missing[0]}, which {INDEX} says it does; download both again"
            )
        self.dtype: DType = "bfloat16" if types == {"BF16"} else "float32"
        self.sizes = {path.name: path.stat().st_size for path, _ in self._homes.values()}

    def read(self, name: str) -> np.ndarray:
        """Return one array, of the type `dtype` unless it holds indices."""
        path, opened = self._homes[name]
        try:
            array: np.ndarray = opened.get_tensor(name)
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{path} can't be read: {error}; download the file again") from None
        return array if self.dtype == "bfloat16" or name.endswith(_INDICES) else array.astype(np.float32, copy=False)


def _derived(name: str) -> bool:
    """Return whether an array can be computed from config.json; old folders hold some."""
    return name.endswith("rotary_emb.inv_freq")


def check_shapes(folder: Path, shapes: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse arrays that aren't those of the model that config.json describes.

    Raises:
        CheckpointError: one is missing, unknown or misshapen.
    """
    misshapen = [
        f"{name} has shape {shapes[name]}, not {expected[name]}"
        for name in expected
        if shapes.get(name, expected[name]) != expected[name]
    ]
    problems = [
        *_counted("missing", expected.keys() - shapes.keys()),
        *_counted("not of this architecture", shapes.keys() - expected.keys()),
        *misshapen[:3],
    ]
    if problems:
        raise CheckpointError(
            f"{folder}: its arrays aren't those of the model in its config.json: {'; '.join(problems)}; download both "
            "again, or correct config.json"
        )


def _counted(what: str, names: Iterable[str]) -> list[str]:
    names = sorted(names)
    return [f"{len(names)} arrays are {what}, {names[0]} among them"] if names else []


def _listed(folder: Path) -> dict[str, Path]:
    """Return the file of each array by the folder's index, or nothing if one file holds all."""
    if (folder / SINGLE).exists():
        return {}
    index, files = folder / INDEX, indexed(folder)
    missing = sorted({path.name for path in files.values() if not os.path.exists(path)})
    if missing or not files:
        what = f"{len(missing)} of the files are missing: {', '.join(missing)}" if missing else "it names no files"
        raise CheckpointError(f"{index}: {what}; expected every shard beside it; download them")
    return files


def indexed(folder: Path) -> dict[str, Path]:
    """Return the file of each array, which may not be there, by the folder's index.

    Raises:
        CheckpointError: there is none, or it names what isn't in the folder.
    """
    index = folder / INDEX
    try:
        listed = parse_object(read_inside(index, folder, DOCUMENT_BYTES))["weight_map"]
        files = {name: folder / file for name, file in listed.items()}
    except FileNotFoundError:
        _refuse(folder)
    except OSError as error:
        raise CheckpointError(f"{index} can't be read: {error.strerror}; download the file again") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of weights ({error!r}); download the file again") from None
    for name, path in files.items():
        if path.parent != folder or Path(listed[name]).name != listed[name]:
            raise CheckpointError(f"{index} names {listed[name]!r}, a file outside its folder; don't trust it")
    return files


def _refuse(folder: Path) -> None:
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder / pickled[0]} is a pickled checkpoint, which can run any code when it is read: refused; expected "
            f"{SINGLE}; use the model's safetensors, or write them with transformers' "
            "save_pretrained(..., safe_serialization=True)"
        )
    raise CheckpointError(f"{folder} holds no weights; expected {SINGLE}, or {INDEX} with its files")


def _opened(path: Path, folder: Path) -> Any:
    try:
        check_inside(path, folder)
        return safetensors.safe_open(path, "np")
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} can't be read as safetensors: {error}; download the file again") from None
