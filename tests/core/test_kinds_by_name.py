"""Where kinds of projections are told apart by name: in few modules of the core, each for a reason."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lost
from lost.projections import KINDS

PLAIN = "the plain matrix, which all other programs have"
KEYED_BY_KINDS = {
    "bench/timing.py": "the answer of `lost bench` has a ratio to dense and one to cola, in its format",
    "interop/from_hf/conversion.py": PLAIN,
    "interop/layout.py": "the format of exports, which has a description of each kind that can be exported",
    "interop/to_hf/folder.py": "a form of export, no kind",
    "interop/to_hf/templates/mlx_lost.py": "stands alone in an exported folder, beside its own layers",
    "interop/to_hf/templates/modeling_lost.py": "stands alone in an exported folder, beside its own layers",
    "reshape/as_dense.py": PLAIN + ": it has no rank to be changed",
    "reshape/grow/layer.py": "how tensors of the kinds here grow; another kind's are refused",
    "reshape/grow/target.py": "which of them the sizes asked for suit",
    "training/origin/init_from.py": PLAIN,
}
"""Modules of the core that tell kinds apart by name, and why they may. What a kind knows is asked of the kind."""


def test_what_a_kind_knows_is_asked_of_the_kind() -> None:
    """No module of the core compares kinds' names, has a table of them, or looks for a kind's class; but for these."""
    root = Path(lost.__file__).parent
    inside = [each for each in root.rglob("*.py") if each.relative_to(root).parts[0] != "projections"]
    places = {str(path.relative_to(root)): [*told_apart(ast.parse(path.read_text()))] for path in inside}
    core = {name: lines for name, lines in places.items() if name.split("/")[0] not in ("backends", "cli") and lines}
    assert core.keys() - KEYED_BY_KINDS.keys() == set(), core
    assert KEYED_BY_KINDS.keys() - core.keys() == set()  # no exception that isn't needed


@pytest.mark.parametrize(
    "text",
    [
        "kind == 'cola'",
        "a if x.kind in ('lost', y) else b",
        "{'lora', 'eva'}",
        "{'lost': 1, 'cola': 2}",
        "isinstance(x, SlTrain)",
        "issubclass(x, (Eva, int))",
        "match kind:\n  case 'lost': pass",
    ],
)
def test_what_tells_kinds_apart_is_found(text: str) -> None:
    assert [*told_apart(ast.parse(text))]


@pytest.mark.parametrize(
    "text", ["kind == 'other'", "{'kind': 'dense'}", "print('lost')", "{'lost': 1}", "isinstance(x, Adapter)"]
)
def test_what_does_not_is_not(text: str) -> None:
    assert not [*told_apart(ast.parse(text))]


def told_apart(tree: ast.Module) -> Iterator[int]:
    """Yield the lines on which kinds that come with `lost` are told apart by name or class."""
    known = {kind: each for kind, each in KINDS.items() if each.__module__.startswith("lost.")}
    classes = {each.__name__ for each in known.values()}
    for node in ast.walk(tree):
        named = [each for each in constants(node) if each in known]
        compared = isinstance(node, ast.Compare | ast.MatchValue) and named
        listed = isinstance(node, ast.Dict | ast.Tuple | ast.List | ast.Set) and len(named) > 1
        asked = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass")
        names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} if asked else set()
        if compared or listed or names & classes:
            yield node.lineno


def constants(node: ast.AST) -> Iterator[object]:
    """Yield what is compared, what a collection holds, the keys of a table."""
    if isinstance(node, ast.Constant):
        yield node.value
    parts: list[ast.AST] = []
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.MatchValue):
        parts = [node.value]
    elif isinstance(node, ast.Dict):
        parts = [key for key in node.keys if isinstance(key, ast.Constant)]
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        parts = [*node.elts]
    for part in parts:
        yield from constants(part)
