"""State of a `lost prepare`: written beside its shards now and then, so that an interrupted one can be resumed."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lost.data.writer import shards_fault
from lost.errors import DataError
from lost.prepare.encode import START, SourcePosition
from lost.storage.files import read_sealed_json, replace_text, sealed_json

FILE = "progress.json"


@dataclass
class PrepareState:
    """The state of one `lost prepare`.

    Attributes:
        arguments: all that decides the result, as JSON has it.
        plan: what was decided before anything was encoded.
        position: up to where the text is encoded.
        splits: the writers' states there.
    """

    arguments: dict[str, Any]
    plan: dict[str, Any]
    position: SourcePosition = START
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it; what it speaks of is on disk already."""
        value = {
            "arguments": self.arguments,
            "plan": self.plan,
            "place": asdict(self.position),
            "splits": self.splits,
        }
        replace_text(folder / FILE, sealed_json(value).decode())


def read_state(folder: Path, arguments: dict[str, Any], overwrite: bool) -> PrepareState | None:
    """Return the state to resume from; None: there is none.

    Args:
        folder: which a `lost prepare` fills.
        arguments: of this one.
        overwrite: whether what another one began may go.

    Raises:
        DataError: another one began it, or shards of it are gone.
        OSError: a shard can't be read.
    """
    try:
        value = read_sealed_json(folder / FILE)
    except (OSError, ValueError):
        return None
    if not isinstance(value.get("arguments"), dict):
        value["arguments"] = {}  # of `lost teach`, perhaps
    if changes := _changes(value["arguments"], arguments):
        if overwrite:
            return None
        raise DataError(
            f"{folder} holds the beginning of a prepared set that other arguments made: {'; '.join(changes)}. Expected "
            "the same command, which goes on there; choose another --out, or add --overwrite to begin anew"
        )
    try:
        state = PrepareState(arguments, value["plan"], SourcePosition(**value["place"]), value["splits"])
        faults = [shards_fault(folder, split, of) for split, of in state.splits.items()]
    except (KeyError, TypeError, AttributeError):
        raise DataError(
            f"{folder / FILE} isn't what `lost prepare` writes; expected the beginning of a prepared set; choose "
            "another --out, or remove that folder"
        ) from None
    if fault := next(filter(None, faults), None):
        if overwrite:
            return None
        raise DataError(
            f"{fault}; expected the shards that an earlier command left there, to go on with; put it back, or add "
            "--overwrite to begin anew"
        )
    return state


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key} = {after.get(key)!r}, was {before.get(key)!r}" for key in keys]
