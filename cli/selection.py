"""Options of `lost prepare` that select a part of the text, refused where they would do nothing."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lost.prepare.sources import Sources


def check_file_options(
    sources: "Sources", held_out: "Sources | None", include: Sequence[str], exclude: Sequence[str], text_key: str | None
) -> None:
    """Check that options for folders, and for files with fields, apply to some.

    Raises:
        UserError: they don't.
    """
    from lost.errors import UserError
    from lost.prepare.reading.hub import is_name
    from lost.prepare.reading.kinds import TEXT, format_of

    paths = [str(path) for each in (sources, held_out) if each for path in each.paths]
    if not all(os.path.exists(path) or is_name(path) for path in paths):
        return  # reading says what is missing, and what may have been meant
    given = {"--include": include, "--exclude": exclude}
    if (names := [name for name, value in given.items() if value]) and not any(map(os.path.isdir, paths)):
        raise UserError(
            f"{', '.join(names)} given, but no text is a folder: they select names inside folders; name the files that "
            "are wanted, or leave them out"
        )
    if text_key and all(os.path.isfile(path) and format_of(Path(path)) == TEXT for path in paths):
        raise UserError(
            f"--text-key {text_key} given, but all text is plain: it names the field or the column of files that have "
            "some; leave it out"
        )


def check_hub_options(
    sources: "Sources",
    held_out: "Sources | None",
    config: str | None,
    split: str | None,
    revision: str | None,
    valid_split: str | None,
) -> None:
    """Check that options for data sets of the hub apply to one.

    Raises:
        UserError: they don't.
    """
    from lost.errors import UserError

    if sources.remote and valid_split and held_out and not held_out.remote:
        raise UserError(
            "--valid-split was given, but the text of --valid is local: it selects a split of a data set; leave it out"
        )
    if sources.remote or (held_out and held_out.remote):
        return
    given = {"--config": config, "--split": split, "--revision": revision, "--valid-split": valid_split}
    if names := [name for name, value in given.items() if value]:
        raise UserError(
            f"{', '.join(names)} given, but all text is local: they select a part of a data set of the Hugging Face "
            "hub; name one, such as hf://owner/name, or leave them out"
        )
