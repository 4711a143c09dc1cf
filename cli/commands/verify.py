"""`lost verify`: check integrity."""

from pathlib import Path
from typing import Annotated

import typer

from lost.cli.options import AsJson, local_path


def verify(
    path: Annotated[Path, typer.Argument(parser=local_path, metavar="RUN|CHECKPOINT|DATA", help="What `lost` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Check a run, a checkpoint, a prepared set or soft targets.

    Every file is compared with its checksum. A checkpoint's arrays must all be there, with the shapes, types and values
    that its configuration requires. Of a run, every checkpoint is checked, and config.yaml, latest, metrics.jsonl and
    the data must be consistent with them. What a crash leaves behind and the next start cleans up is only remarked on.
    Exit code 2 if there are problems.
    """
    from lost.cli.render.output import answer
    from lost.training.verify import verify as verify_all

    report = verify_all(path)
    value = {
        "checked": [str(each) for each in report.checked],
        "faults": report.problems,
        "weights_only": [str(each) for each in report.weights_only],
        "remarks": report.remarks,
    }
    only = dict.fromkeys(report.weights_only, ", weights only: training can't resume from it")
    intact = [f"{each} is intact{only.get(each, '')}" for each, wrong in report.checked.items() if not wrong]
    consistent = [f"{path}: its files are consistent"] if report.inconsistencies == [] and not report.problems else []
    answer(as_json, value, [*report.problems, *intact, *consistent, *(f"remark: {each}" for each in report.remarks)])
    if report.problems:
        raise typer.Exit(2)
