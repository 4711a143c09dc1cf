"""`lost verify`: is every byte what was written?"""

from pathlib import Path
from typing import Annotated

import typer

from lost.cli.options import AsJson


def verify(
    path: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT|DATA", help="What `lost` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Compare every file with its checksum.

    Takes a run, a checkpoint or a prepared set.
    """
    from lost.checkpoint import MANIFEST, checkpoints, open_checkpoint
    from lost.cli.output import answer
    from lost.dataset import DESCRIPTION, Dataset
    from lost.errors import CheckpointError, UserError

    faults: list[str] = []
    checked: list[Path] = []
    if (path / DESCRIPTION).exists():
        checked, faults = [path], list(Dataset(path).faults())
    else:
        checked = checkpoints(path / "checkpoints") or [path]
        if not (path / MANIFEST).exists() and checked == [path]:
            raise UserError(f"{path} holds neither a prepared set nor a checkpoint; expected what `lost` wrote")
        for each in checked:
            try:
                faults += open_checkpoint(each).faults()
            except CheckpointError as error:
                faults.append(str(error))
    value = {"checked": [str(each) for each in checked], "faults": faults}
    answer(as_json, value, [*faults, *(f"{each} is whole" for each in checked if not faults)])
    if faults:
        raise typer.Exit(2)
