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
    weights_only: list[Path] = []
    if (path / DESCRIPTION).exists():
        found[path] = list(Dataset(path).faults())
    else:
        checked = checkpoints(path / "checkpoints") or [path]
        if not (path / MANIFEST).exists() and checked == [path]:
            raise UserError(f"{path} holds neither a prepared set nor a checkpoint; expected what `lost` wrote")
        for each in checked:
            try:
                checkpoint = open_checkpoint(each)
                found[each] = list(checkpoint_faults(checkpoint))
                if not checkpoint.resumable:
                    weights_only.append(each)
            except CheckpointError as error:
                found[each] = [str(error)]
    faults = [fault for each in found.values() for fault in each]
    value = {"checked": [str(each) for each in found], "faults": faults, "weights_only": list(map(str, weights_only))}
    remark = dict.fromkeys(weights_only, ", of weights alone: training can't go on from it")
    whole = [f"{each} is whole{remark.get(each, '')}" for each, wrong in found.items() if not wrong]
    answer(as_json, value, [*faults, *whole])
    if faults:
        raise typer.Exit(2)
