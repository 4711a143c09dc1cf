"""Further held-out texts of a run, by name: those that `data.also_evaluate` names."""

from pathlib import Path

from lost.config import DataConfig
from lost.data.dataset import DESCRIPTION, VALID, Dataset
from lost.errors import DataError
from lost.tokenizer import Tokenizer, same_ids


def further_sets(data: DataConfig, tokenizer: Tokenizer) -> dict[str, Dataset]:
    """Open them.

    Args:
        data: names them.
        tokenizer: the run's.

    Raises:
        DataError: one is no prepared set, has no validation text, or another tokenizer; the message has its name.
    """
    return {name: _open(name, Path(path), tokenizer) for name, path in data.also_evaluate.items()}


def _open(name: str, path: Path, tokenizer: Tokenizer) -> Dataset:
    key = f"data.also_evaluate.{name}"
    if not (path / DESCRIPTION).exists():
        raise DataError(
            f"{key}: {path} holds no prepared data; expected a folder written by `lost prepare`; correct the path, or "
            "leave it out"
        )
    try:
        dataset = Dataset(path)
        dataset.split(VALID)
    except DataError as error:
        raise DataError(f"{key}: {error}") from None
    if not same_ids(dataset.tokenizer, tokenizer):
        raise DataError(
            f"{key}: {path} was prepared with another tokenizer than the run's data; expected the same; prepare it "
            "with the run's (--tokenizer), or leave it out"
        )
    return dataset
