"""How far a `lost prepare` has come: written beside its shards, so that an interrupted one goes on from there."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lost.errors import DataError
from lost.prepare.encode import Place
from lost.storage.files import read_sealed_json, replace_text, sealed_json

FILE = "progress.json"


@dataclass
class Journal:
    """The state of one `lost prepare`.

    Attributes:
        arguments: all that decides the result, as JSON has it.
        plan: what was found before anything was encoded.
        place: up to where the text is encoded.
        splits: the writers' states there.
    """

    arguments: dict[str, Any]
    plan: dict[str, Any]
    place: Place = field(default_factory=lambda: Place(0, 0))
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it; what it speaks of is on disk already."""
        replace_text(folder / FILE, sealed_json(asdict(self)).decode())


def read_journal(folder: Path, arguments: dict[str, Any], overwrite: bool) -> Journal | None:
    """Return the state to go on from; None: there is none.

    Args:
        folder: which a `lost prepare` fills.
        arguments: of this one.
        overwrite: whether what another one began may go.

    Raises:
        DataError: another one began it.
    """
    try:
        found = read_sealed_json(folder / FILE)
    except (OSError, ValueError):
        return None
    if changes := _changes(found["arguments"], arguments):
        if overwrite:
            return None
        raise DataError(
            f"{folder} holds the beginning of a prepared set that other arguments made: {'; '.join(changes)}. Expected "
            "the same command, which goes on there; choose another --out, or add --overwrite to begin anew"
        )
    return Journal(arguments, found["plan"], Place(**found["place"]), found["splits"])


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key} = {after.get(key)!r}, was {before.get(key)!r}" for key in keys]
