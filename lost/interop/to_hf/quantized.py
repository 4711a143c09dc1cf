"""Exports with matrices in few bits: mlx-lm quantizes, and numpy computes what its numbers mean (`lost.method`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lost.config import Config
from lost.errors import UserError
from lost.interop.layout import exported_name, is_plain
from lost.interop.to_hf.check import READERS
from lost.method.quantized import unpacked
from lost.model.parameters import parameter_table
from lost.utils.extras import need

if TYPE_CHECKING:
    from lost.evaluation.perplexity import Evaluation


@dataclass(frozen=True)
class Quantization:
    """How matrices are to be quantized.

    Attributes:
        bits: of an entry.
        group_size: entries of a row with one scale and one bias.
    """

    bits: Literal[4, 8]
    group_size: Literal[32, 64, 128] = 64


@dataclass(frozen=True)
class Quantized:
    """What was quantized.

    Attributes:
        how: as it was asked for.
        matrices: how many are quantized.
        kept: names of those that aren't: a group doesn't divide their rows.
        bits_per_weight: stored bits over entries, of all floating-point arrays.
        before: evaluation of the model on a text; None: there was none.
        after: the same of the quantized one.
    """

    how: Quantization
    matrices: int
    kept: list[str]
    bits_per_weight: float
    before: "Evaluation | None" = None
    after: "Evaluation | None" = None


def check_quantizer() -> Any:
    """Return what quantizes.

    Raises:
        MissingPackageError: mlx-lm isn't installed, or doesn't work here.
    """
    for package in ("mlx.core", "mlx_lm"):
        need(package, "mlx", "--bits")
    return need(READERS["mlx-lm"], "mlx", "--bits")


def quantize(folder: Path, how: Quantization) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return config.json and arrays of an exported folder, its matrices quantized.

    Raises:
        MissingPackageError: as `check_quantizer`.
    """
    described, arrays = check_quantizer().quantize(folder, how.bits, how.group_size)
    return described, arrays


def dequantized(
    config: Config, arrays: Mapping[str, np.ndarray], how: Quantization
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a model's parameters under our names, float32 where they were quantized.

    Args:
        config: of the model.
        arrays: of its quantized export, by the export's names.
        how: they are quantized.
    """
    plain = is_plain(config)
    for name in parameter_table(config):
        stored = exported_name(config.model, plain, name)
        stem = stored.removesuffix(".weight")
        if f"{stem}.scales" in arrays:
            words, scales, biases = (arrays[f"{stem}.{each}"] for each in ("weight", "scales", "biases"))
            yield name, unpacked(words, scales, biases, how.bits)
        else:
            yield name, arrays[stored]


def described(arrays: Mapping[str, np.ndarray], how: Quantization) -> Quantized:
    """Return what was quantized.

    Args:
        arrays: of the quantized export, by its names.
        how: it was asked for.

    Raises:
        UserError: nothing was.
    """
    stems = {name.removesuffix(".scales") for name in arrays if name.endswith(".scales")}
    matrices = {name.removesuffix(".weight") for name, each in arrays.items() if _is_matrix(name, each)}
    if not stems:
        raise UserError(
            f"--group-size {how.group_size}: it divides the rows of no matrix, so nothing would be quantized; expected "
            "one that does; try 32, or export without --bits"
        )
    floats = {name: each for name, each in arrays.items() if each.dtype != np.int32}
    entries = sum(
        0 if name.endswith((".scales", ".biases")) else each.size * (32 // how.bits if each.dtype == np.uint32 else 1)
        for name, each in floats.items()
    )
    stored = sum(each.nbytes for each in floats.values())
    return Quantized(how, len(stems), sorted(matrices - stems), 8 * stored / entries)


def _is_matrix(name: str, array: np.ndarray) -> bool:
    return name.endswith(".weight") and array.ndim > 1
