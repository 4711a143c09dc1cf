"""A YAML document with the position of every key, for messages that name file, line, key and value."""

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from lost.config.elsewhere import OURS
from lost.config.fields import Section
from lost.config.reference import nearest
from lost.config.schedule import others
from lost.config.schema import Config
from lost.errors import ConfigError
from lost.storage.nofollow import DOCUMENT_BYTES, read_bytes
from lost.utils.parsing import compose_yaml, yaml_value

_COMMAND_LINE = "--set"


@dataclass
class Document:
    """Plain values, and the file and line where each was written."""

    source: str
    values: dict[str, Any]
    lines: dict[tuple[str, ...], str] = field(default_factory=dict)

    def location(self, path: tuple[str, ...]) -> str:
        """Return `file:line` of the key, or of the nearest key around it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return self.source

    def overridden(self, path: tuple[str, ...], text: str) -> str | None:
        """Return what `--set` gave to a key that a text about the section `path` names; None: the file has them all."""
        for key, location in self.lines.items():
            if location != _COMMAND_LINE or key[: len(path)] != path or len(key) < 2:
                continue
            value: Any = self.values
            for part in key:
                value = value.get(part) if isinstance(value, dict) else None
            name = re.escape(".".join(key[len(path) :]))
            if re.search(rf"(?<![\w.]){name}(?![\w.])", text):
                return f"{_COMMAND_LINE}: {'.'.join(key)} = {value!r}"
        return None

    def explain(self, problem: "Problem") -> str:
        """Word one problem: location, key, value, what was expected."""
        if problem.value is _MISSING and (given := self.overridden(problem.path, problem.text)):
            return together(given, problem.text)
        shown = "" if problem.value is _MISSING else f" = {problem.value!r}"
        key = ".".join(problem.path)
        if not key:
            return f"{self.source}: {problem.text}"
        return f"{self.location(problem.path)}: {key}{shown}: {problem.text}"


def together(given: str, text: str) -> str:
    """Return what `Document.overridden` returned before a text, which may name key and value itself."""
    return (
        f"{_COMMAND_LINE}: {text}" if text.startswith(given.removeprefix(f"{_COMMAND_LINE}: ")) else f"{given}: {text}"
    )


_MISSING = object()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration."""

    path: tuple[str, ...]
    value: Any
    text: str


def problems(error: ValidationError) -> Iterable[Problem]:
    """Return the problems with a configuration, worded for a user."""
    for entry in error.errors():
        path = tuple(str(part) for part in entry["loc"])
        kind, value, text = entry["type"], entry["input"], entry["msg"]
        if kind == "extra_forbidden":
            text = f"unknown key{_suggestion(path)}"
        elif kind == "missing":
            value, text = _MISSING, "missing; add it"
            text += " (`lost train --init-from WEIGHTS` does without)" if path == ("model",) else ""
        elif isinstance(value, dict):
            value = _MISSING
        text = text.removeprefix("Value error, ")
        yield Problem(path, value, text[0].lower() + text[1:])


def _suggestion(path: tuple[str, ...]) -> str:
    known = _keys(path[:-1])
    if ours := OURS.get(path[-1]):
        return f"; here that is {ours!r} (`lost config --explain {ours}`)"
    near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5) or list(filter(None, [nearest(".".join(path))]))
    return f"; did you mean {near[0]!r}?" if near else f"; known here are {', '.join(known)}"


def _keys(section: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in section:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        choices = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type)]
        inner = next((each for each in choices if issubclass(each, Section)), None)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def parse(path: Path, keys: Iterable[str] = Config.model_fields) -> Document:
    """Read a file of keys and values, unchecked.

    Args:
        path: of it.
        keys: that are expected, for messages: a configuration's sections, unless it is something else.

    Raises:
        ConfigError: it isn't YAML, or has no keys.
    """
    try:
        node = compose_yaml(read_bytes(path, DOCUMENT_BYTES, follow=True).decode())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read as YAML: {error}") from None
    document = Document(str(path), {})
    values = _construct(node, (), document) if node is not None else {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {values!r:.100}, without keys; expected {', '.join(keys)}; correct it")
    document.values = values
    return document


def _construct(node: yaml.Node, path: tuple[str, ...], document: Document) -> Any:
    if not isinstance(node, yaml.MappingNode):
        try:
            return yaml_value(node)
        except ValueError as error:
            raise ConfigError(f"{document.source}:{node.start_mark.line + 1}: {error}") from None
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        location = f"{document.source}:{key_node.start_mark.line + 1}"
        if key in values:
            first = document.lines[(*path, key)].rpartition(":")[2]
            raise ConfigError(f"{location}: {'.'.join((*path, key))}: duplicate key, first in line {first}; remove one")
        document.lines[(*path, key)] = location
        values[key] = _construct(value_node, (*path, key), document)
    return values


def assignment(key: str, value: Any) -> str:
    """Return what `--set` takes to give a key a value; YAML doesn't join the halves of JSON's escaped characters."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def override(document: Document, text: str) -> None:
    """Set a value as `--set section.key=value` says.

    Raises:
        ConfigError: it isn't an assignment to a key.
    """
    key, equals, raw = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise ConfigError(f"--set {text}: expected section.key=value, such as --set optimizer.lr=3e-3")
    try:
        node = compose_yaml(raw)
        value = yaml_value(node) if node else None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--set {text:.200}: it can't be read as a YAML value ({reason}); quote it") from None
    section = document.values
    for part in path[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise ConfigError(f"--set {text}: {part!r} is a value, not a section")
    for key in others(path[-1]) if path[0] == "schedule" and value is not None else ():
        section.pop(key, None)  # of several ways to say a thing, the last one counts
    section[path[-1]] = value
    document.lines[path] = _COMMAND_LINE
    for end in range(1, len(path)):
        document.lines.setdefault(path[:end], _COMMAND_LINE)
