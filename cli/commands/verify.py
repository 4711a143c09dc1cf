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
    values that its configuration asks for. Of a run every checkpoint, and that config.yaml, latest, metrics.jsonl and
    the data agree with them. What a crash leaves and the next start mends is no fault, but remarked on. Faults: exit
    code 2.
    """
    from lost.cli.render.output import answer
    from lost.training.verify import verify as verify_all

    found = verify_all(path)
    value = {
        "checked": [str(each) for each in found.checked],
        "faults": found.faults,
        "weights_only": [str(each) for each in found.weights_only],
        "remarks": found.remarks,
    }
    only = dict.fromkeys(found.weights_only, ", of weights alone: training can't go on from it")
    whole = [f"{each} is whole{only.get(each, '')}" for each, wrong in found.checked.items() if not wrong]
    agrees = [f"{path}: its files agree with each other"] if found.disagreements == [] else []
    answer(as_json, value, [*found.faults, *whole, *agrees, *(f"remark: {each}" for each in found.remarks)])
    if found.faults:
        raise typer.Exit(2)
