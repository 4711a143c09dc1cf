"""The vocabulary that a model gets: its configuration's, the data's, or an assumed one; and rows that no token uses."""

from pathlib import Path

from lost.config import Config
from lost.data.dataset import Dataset
from lost.data.mixture import open_dataset, with_data
from lost.model.parameters import vocabulary
from lost.planning.budget import budget
from lost.prepare import VOCAB_SIZE

PADDED = 512
"""The largest multiple that tables are usually padded to, for fast products or equal shards."""


def with_vocabulary(config: Config, data: Path | None = None) -> tuple[Config, str]:
    """Return the configuration with its vocabulary known, before there is a run.

    Args:
        config: where it leaves the vocabulary open, the data decides that it names.
        data: a prepared set that a user names instead.

    Returns:
        The configuration, and a remark for the user; empty where there is nothing to say.

    Raises:
        DataError: the data can't be used.
        ConfigError: its tokenizer has ids beyond the model's vocabulary.
    """
    is_open = config.model.vocab_size is None
    if data or (is_open and (config.data.path or config.data.mixture)):
        dataset = open_dataset(config.data, data)
        config = with_data(config, dataset)
        return config, unused_rows(config, dataset)
    if not is_open:
        return config, ""
    return config.replace("model", vocab_size=VOCAB_SIZE), (
        f"model.vocab_size is taken from the data, and no data is named: {VOCAB_SIZE:,} entries are assumed, as many "
        "as `lost prepare` makes by default"
    )


def unused_rows(config: Config, dataset: Dataset) -> str:
    """Return a warning if the model has more rows than its tokenizer has entries, beyond padding; else nothing.

    Args:
        config: its vocabulary known.
        dataset: with the tokenizer.
    """
    entries, rows = dataset.tokenizer.vocab_size, vocabulary(config)
    if rows <= -(-entries // PADDED) * PADDED:
        return ""
    count = budget(config)
    unused = rows - entries
    return (
        f"model.vocab_size = {rows}: the tokenizer of {dataset.path} has {entries:,} entries, and {unused:,} rows "
        f"({count.embeddings // rows * unused:,} of {count.parameters:,} parameters) will never be used; "
        "--set model.vocab_size=null makes as many rows as it has entries"
    )
