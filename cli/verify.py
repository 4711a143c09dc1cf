"""`lost verify`: is it whole?"""

from pathlib import Path
from typing import Annotated

import typer

from lost.cli.options import AsJson


def verify(
    path: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT|DATA", help="What `lost` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Check a run, a checkpoint or a prepared set whole.

    Every file against its checksum; of a checkpoint also that its arrays are all there, with the shapes, types and
    values that its configuration asks for.
    """
    from lost.checkpoint import MANIFEST, checkpoints, open_checkpoint
    from lost.cli.output import answer
    from lost.dataset import DESCRIPTION, Dataset
    from lost.errors import CheckpointError, UserError
    from lost.verification import faults as checkpoint_faults

    found: dict[Path, list[str]] = {}
    if (path / DESCRIPTION).exists():
        found[path] = list(Dataset(path).faults())
    else:
        checked = checkpoints(path / "checkpoints") or [path]
        if not (path / MANIFEST).exists() and checked == [path]:
            raise UserError(f"{path} holds neither a prepared set nor a checkpoint; expected what `lost` wrote")
        for each in checked:
            try:
                found[each] = list(checkpoint_faults(open_checkpoint(each)))
            except CheckpointError as error:
                found[each] = [str(error)]
    faults = [fault for each in found.values() for fault in each]
    value = {"checked": [str(each) for each in found], "faults": faults}
    answer(as_json, value, [*faults, *(f"{each} is whole" for each, wrong in found.items() if not wrong)])
    if faults:
        raise typer.Exit(2)
