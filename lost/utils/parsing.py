"""Safe parsing of untrusted JSON and YAML, bounded in size and depth; the only error is a ValueError that says why."""

import json
import math
from typing import Any

import yaml

_JSON_DEPTH = 100
_YAML_CHARACTERS = 1 << 20
_YAML_DEPTH = 16  # a configuration nests four deep


def parse_json(content: bytes | str) -> Any:
    """Read a JSON document.

    Raises:
        ValueError: it isn't JSON, is nested too deeply, or has a number that is too long.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise _too_deep() from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:  # Python converts no integer of thousands of digits
        raise ValueError("it has a whole number of thousands of digits") from None
    _check_depth(value)
    return value


def parse_object(content: bytes | str) -> dict[str, Any]:
    """Read a JSON document that is one object.

    Raises:
        ValueError: as `parse_json`, or it is something else.
    """
    value = parse_json(content)
    if not isinstance(value, dict):
        raise ValueError(f"it holds {_kind(value)}, not an object")
    return value


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", type(None): "null", bool: "a truth value"}
    return kinds.get(type(value), "a number")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_JSON_DEPTH + 1):
        if not level:
            return
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {_JSON_DEPTH} deep")


def finite(value: Any) -> Any:
    """Return a value with None in place of numbers that JSON can't express (NaN, infinities)."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compose_yaml(text: str) -> yaml.Node | None:
    """Read a YAML document as nodes, which know their lines. Aliases are refused: a few can expand to gigabytes.

    Raises:
        ValueError: it isn't YAML, too long, nested too deeply, or has an alias; the message has the line.
    """
    if len(text) > _YAML_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters; expected at most {_YAML_CHARACTERS:,}")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = f"line {event.start_mark.line + 1 if event.start_mark else 1}"
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{line}: *{event.anchor} is an alias; expected the value itself; write it out")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _YAML_DEPTH:
                raise ValueError(f"{line}: nested more than {_YAML_DEPTH} deep")
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def yaml_value(node: yaml.Node) -> Any:
    """Return a node's value.

    Raises:
        ValueError: it has none, such as an impossible date.
    """
    try:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ArithmeticError, LookupError, AttributeError, TypeError, ValueError) as error:
        reason = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
        raise ValueError(f"{getattr(node, 'value', '')!r:.60} can't be read as a YAML value: {reason}") from None
