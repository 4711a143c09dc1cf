"""Data sets of the Hugging Face hub, streamed by their `datasets` library: nothing is copied to this disk first."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from lost.errors import DataError, NetworkError
from lost.prepare import SPLIT
from lost.prepare.reading.kinds import suffixes
from lost.prepare.reading.readers import no_text
from lost.utils.extras import need
from lost.utils.hub import reaching

SCHEME = "hf://"
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # ./notes and ../notes are none, here or on the hub


@dataclass(frozen=True)
class HubChoice:
    """Which part of a data set, as `datasets.load_dataset` names it.

    Attributes:
        config: its `name` argument: the subset, such as `en`.
        split: such as `train`.
        revision: a branch, tag or commit.
    """

    config: str | None = None
    split: str = SPLIT
    revision: str | None = None


def is_name(text: str) -> bool:
    """Whether text that is no path here can name a data set: `hf://...`, or `owner/name`."""
    return text.startswith(SCHEME) or (_NAME.fullmatch(text) is not None and not text.endswith(suffixes()))


def repository(name: str) -> str:
    """Return what a data set is called in records, with the scheme or without."""
    return SCHEME + name.removeprefix(SCHEME)


def commit(name: str, revision: str | None) -> str | None:
    """Return the commit that a revision means now; the revision itself, if this is a folder or isn't on the hub.

    Args:
        name: as in `shards`, which then says what is wrong.
        revision: a branch, tag or commit; None: the newest.

    Raises:
        UserError: the hub refuses to tell.
        NetworkError: it can't be reached: the same command may go on with this commit later.
        MissingPackageError: the library isn't installed.
    """
    need("datasets", "data", f"reading {name}")  # before the network
    from huggingface_hub import HfApi, errors  # which it needs itself

    plain = name.removeprefix(SCHEME)
    if not _NAME.fullmatch(plain) or os.path.isdir(plain):
        return revision
    with reaching(repository(name)):
        try:
            return HfApi().dataset_info(plain, revision=revision).sha
        except (errors.HFValidationError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            return revision


def shards(name: str, choice: HubChoice, text_key: str) -> list[Callable[[], Iterator[str]]]:
    """Return what reads each part of a data set; the parts in their order are the whole set.

    Args:
        name: `owner/name`, or `hf://owner/name`; what `load_dataset` takes otherwise may follow `hf://` too.
        choice: of its parts.
        text_key: the column that holds the text.

    Raises:
        DataError: there is no such data set, or it has no such column.
        NetworkError: there is no network.
        MissingPackageError: the library isn't installed.
    """
    why = "" if name.startswith(SCHEME) else " since no such path is here"
    what = f"{name}, a data set of the Hugging Face hub{why},"
    datasets = need("datasets", "data", f"reading {what}")
    try:
        data = datasets.load_dataset(
            name.removeprefix(SCHEME), choice.config, split=choice.split, revision=choice.revision, streaming=True
        )
        columns, count = data.column_names, data.num_shards
    except ConnectionError as error:
        raise NetworkError(
            f"{what} can't be reached: {error}; expected a network and a hub that answers; try again when there are"
        ) from None
    except Exception as error:  # of the library, of its HTTP client, of the file formats: no common class
        raise DataError(
            f"{what} can't be opened: {type(error).__name__}: {error}; expected owner/name, a --config and a --split "
            "that it has, and a network; check these"
        ) from None
    if columns is not None:
        if text_key not in columns:
            raise no_text(name, text_key, ", ".join(columns))
        data = data.select_columns([text_key])
    return [partial(_documents, name, data.shard(count, number), text_key) for number in range(count)]


def _documents(name: str, shard: Any, text_key: str) -> Iterator[str]:
    try:
        for record in shard:
            text = record.get(text_key, record)
            if not isinstance(text, str | None):
                raise no_text(name, text_key, ", ".join(record))
            if text:
                yield text
    except DataError:
        raise
    except Exception as error:  # see above
        raise NetworkError(
            f"{name} could not be read on: {type(error).__name__}: {error}; check the network and give the same "
            "command again: it goes on from there"
        ) from error
