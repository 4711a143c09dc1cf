"""Recipes: data sets of the hub by a short name, or by a YAML file of the user's, with all that selects their text."""

import os
from pathlib import Path

from pydantic import ValidationError

from lost.config.document import parse
from lost.config.fields import Section
from lost.errors import DataError
from lost.prepare import SPLIT, TEXT_KEY
from lost.prepare.reading.hub import SCHEME

_SHIPPED = Path(__file__).parents[1] / "configs" / "data"
SUFFIX = ".yaml"


class Recipe(Section):
    """A data set of the hub, and which of it is the text."""

    hub: str
    """`hf://owner/name`; what `load_dataset` takes otherwise may follow `hf://` too."""
    license: str
    """Under which its text may be used."""
    config: str | None = None
    """Its subset; null: it has none."""
    split: str = SPLIT
    """The split that is trained on."""
    valid_split: str | None = None
    """The split that is validated with; null: a share of the other is held out."""
    revision: str | None = None
    """A branch, tag or commit; null: the newest."""
    text_key: str = TEXT_KEY
    """The column with the text."""


def shipped() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob(f"*{SUFFIX}"))}


def is_shipped(text: str) -> bool:
    """Whether text, as it is no path here, is the name of a recipe that comes with the package."""
    return not os.path.exists(text) and text in shipped()  # Path.exists raises where a name is too long


def find_recipe(text: str) -> Recipe | None:
    """Return the recipe that a name, or the path of a YAML file, means; None: it means something else.

    Raises:
        ConfigError: the file isn't YAML, or has no keys.
        DataError: it is no recipe; the message has the line.
    """
    if is_shipped(text):
        return _read(shipped()[text])
    return _read(Path(text)) if text.endswith(SUFFIX) and os.path.isfile(text) else None


def listed() -> list[dict[str, str | None]]:
    """Return what ships: of each recipe its name, what it is, and its keys."""
    return [
        {"name": name, "about": path.read_text().splitlines()[0].removeprefix("# "), **_read(path).model_dump()}
        for name, path in shipped().items()
    ]


def _read(path: Path) -> Recipe:
    document = parse(path, Recipe.model_fields)
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        first = error.errors()[0]
        where = tuple(str(part) for part in first["loc"])
        raise DataError(
            f"{document.location(where)}: {'.'.join(where)}: {first['msg']}; expected a recipe, with the keys "
            f"{', '.join(Recipe.model_fields)} (hub and license needed); correct it, or, if this is the text, name its "
            "folder"
        ) from None
    if not recipe.hub.startswith(SCHEME):
        raise DataError(
            f"{document.location(('hub',))}: hub = {recipe.hub!r:.100}; expected {SCHEME}owner/name; correct it"
        )
    return recipe
