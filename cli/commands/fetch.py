"""`lost fetch`: the newest checkpoint of a run's mirror, into a run folder."""

from pathlib import Path
from typing import Annotated

import typer

from lost.cli.options import AsJson, path_option


def fetch(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="What `lost train --mirror` was given.")],
    out: Annotated[Path, path_option("Run folder to make.")],
    as_json: AsJson = False,
) -> None:
    """Fetch the newest checkpoint that is intact from a run's mirror.

    Every byte is compared with its seal before the checkpoint has its name, as of a folder from a stranger. Then `lost
    train RUN` resumes the run there, and all other commands take it. Code 75: the address doesn't answer; try later.
    """
    from shlex import quote

    from lost.checkpoint.mirror import fetch as fetch_newest
    from lost.cli.render.output import answer, note
    from lost.errors import LostError
    from lost.storage.files import LOCK
    from lost.storage.lock import locked
    from lost.storage.nofollow import remove
    from lost.storage.remote import Remote
    from lost.training.run_dir import check_place, write_config

    remote = Remote(address)
    check_place(out)
    existed = out.exists()
    try:
        with locked(out, note):
            checkpoint, skipped = fetch_newest(remote, out)
            # The micro-batch is a matter of the machine.
            write_config(checkpoint.config.replace("train", micro_batch_size="auto"), out)
    except LostError:
        if not existed and out.is_dir() and [each.name for each in out.iterdir()] == [LOCK]:
            remove(out)  # only what was made for it
        raise
    for reason in skipped:
        note(f"skipped: {reason}")
    value = {"run": str(out), "checkpoint": str(checkpoint.path), "step": checkpoint.progress.step, "skipped": skipped}
    answer(
        as_json, value, [f"fetched {checkpoint.path}; `lost train {quote(str(out))}` resumes, with --data if it moved"]
    )
