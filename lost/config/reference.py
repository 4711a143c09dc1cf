"""The reference of a configuration: what each key may be, its default and its meaning, as the schema says them."""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lost.config.schema import Config
from lost.errors import ConfigError

_LIMITS = {"ge": ">=", "minimum": ">=", "gt": ">", "exclusiveMinimum": ">"}
_LIMITS |= {"lt": "<", "exclusiveMaximum": "<", "le": "<=", "maximum": "<="}
_UNHEARD_OF = 2**53  # a limit against what harms, not one that a user meets
_WORDS = {"boolean": "true or false", "object": "mapping", "string": "text"}


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        path: with its section, `optimizer.lr`.
        values: what it may be, in words.
        default: as in a configuration; None: the key must be set.
        meaning: in words.
    """

    path: str
    values: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Part:
    """A section, or a key that stands in none.

    Attributes:
        path: `optimizer`.
        meaning: in words; empty for a key in no section.
        keys: in their order.
    """

    path: str
    meaning: str
    keys: list[Key]


def reference() -> list[Part]:
    """Return everything that a configuration may have."""
    schema = Config.model_json_schema()
    sections, top = schema["$defs"], schema["properties"]
    parts: list[Part] = []
    for name, entry in top.items():
        if "$ref" in entry:
            parts += _section(name, entry, sections)
        else:
            parts.append(Part(name, "", [_key(name, entry, schema["required"])]))
    return parts


def explain(name: str) -> list[Part]:
    """Return what is meant by the name of a key or a section.

    Raises:
        ConfigError: there is none; it names the nearest.
    """
    parts = reference()
    found = [replace(part, keys=[key for key in part.keys if f"{key.path}.".startswith(f"{name}.")]) for part in parts]
    if any(part.keys for part in found):
        return [part for part in found if part.keys]
    hint = f"did you mean {near!r}? " if (near := nearest(name)) else ""
    sections = ", ".join(part.path for part in parts)
    raise ConfigError(
        f"{name!r} is no key of a configuration; {hint}expected a section ({sections}) or one of its keys"
    )


def nearest(name: str) -> str | None:
    """Return the key or section that may have been meant, its section left out, wrong or right."""
    parts = reference()
    paths = [*(part.path for part in parts), *(key.path for part in parts for key in part.keys)]
    words = {path.rpartition(".")[2]: path for path in paths}
    near = difflib.get_close_matches(name, paths, n=1, cutoff=0.8)
    near = near or [words[word] for word in difflib.get_close_matches(name.rpartition(".")[2], words, n=1, cutoff=0.8)]
    return near[0] if near else None


def _section(path: str, entry: dict[str, Any], sections: dict[str, Any]) -> Iterator[Part]:
    """Yield a section, and those inside it."""
    own = sections[entry["$ref"].rpartition("/")[2]]
    names = own["properties"]
    required = own.get("required", [])
    yield Part(path, _line(own["description"]), [_key(f"{path}.{name}", names[name], required) for name in names])
    for name, inner in names.items():
        for choice in inner.get("anyOf", [inner]):
            if "$ref" in choice:
                yield from _section(f"{path}.{name}", choice, sections)


def _key(path: str, entry: dict[str, Any], required: list[str]) -> Key:
    must = path.rpartition(".")[2] in required
    return Key(path, _values(entry), None if must else _text(entry["default"]), _line(entry.get("description", "")))


def _values(entry: dict[str, Any]) -> str:
    """Word what a key may be."""
    if "anyOf" in entry:
        return " or ".join(_values(choice) for choice in entry["anyOf"])
    if "$ref" in entry:
        return "a section"
    if "const" in entry:
        return str(entry["const"])
    if "enum" in entry:
        return ", ".join(map(str, entry["enum"]))
    if "prefixItems" in entry:
        return f"[{'; '.join(_values(each) for each in entry['prefixItems'])}]"
    if entry["type"] == "array":
        return f"list of {_values(entry['items'])}"
    limits = [f"{word} {entry[key]}" for key, word in _LIMITS.items() if entry.get(key, _UNHEARD_OF) < _UNHEARD_OF]
    return " ".join([_WORDS.get(entry["type"], entry["type"]), ", ".join(limits)]).rstrip()


def _text(default: Any) -> str:
    return default if isinstance(default, str) else json.dumps(default)


def _line(text: str) -> str:
    return " ".join(text.split())
