"""The house: rooms that import only what stands before them, none too full, and the names that users import."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import lost

ROOT = Path(lost.__file__).parent
ORDER = [
    "errors", "utils", "storage", "config", "method", "projections", "model", "optim", "tokenizer", "data", "prepare",
    "distributed", "engine", "checkpoint", "planning", "bench", "generation", "evaluation", "tracking", "interop",
    "reshape", "training", "scaling", "sweep", "report",
]  # fmt: skip
"""The rooms of the core; each imports itself and those before it. Backends and the command line may import all."""
OUTER = ("backends", "cli")
PUBLIC = {
    "lost": ["Config", "Factors", "LostError", "compose", "decompose", "load_config", "__version__"],
    "lost.backends.torch": ["lostify", "create", "available", "resolve", "capacity", "join"],
    "lost.backends.mlx": ["lostify", "create", "available", "resolve", "capacity", "join"],
    "lost.config": ["Config", "ModelConfig", "ProjectionConfig"],
    "lost.engine": ["Engine", "create_engine", "BACKENDS"],
    "lost.checkpoint": ["Checkpoint", "open_checkpoint"],
    "lost.projections": ["KINDS", "Projection", "projection"],
    "lost.tokenizer": ["Tokenizer", "load_tokenizer"],
}


def modules(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        yield from sorted(ROOT.joinpath(room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the rooms that a module imports, inside functions too, each with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"lost.{alias.name}" for alias in node.names] if node.module == "lost" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((name.split(".")[1], node.lineno) for name in names if name.startswith("lost."))


def test_a_room_imports_only_those_before_it() -> None:
    places = {room: number for number, room in enumerate(ORDER)}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {room}"
        for path in modules(*ORDER)
        for room, line in imports(path)
        if room != "__version__" and places.get(room, len(ORDER)) > places[path.relative_to(ROOT).parts[0]]
    ]
    assert not wrong


def test_backends_import_no_command_line_and_not_each_other() -> None:
    for path in modules("backends"):
        text = path.read_text()
        assert "lost.cli" not in text, path
        other = {"torch": "mlx", "mlx": "torch"}.get(path.relative_to(ROOT / "backends").parts[0], "-")
        assert f"lost.backends.{other}" not in text, path


def test_every_module_stands_in_a_room() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == {*ORDER, *OUTER, "configs"} - {"errors"}


@pytest.mark.parametrize("room", [*ORDER[1:], *OUTER])
def test_a_folder_has_a_purpose_and_at_most_ten_modules(room: str) -> None:
    for folder in (ROOT / room, *(path for path in (ROOT / room).rglob("*") if path.is_dir())):
        if folder.name in ("__pycache__", "templates"):
            continue
        names = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(names) <= 10, (folder, names)
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


@pytest.mark.parametrize("module", PUBLIC)
def test_names_that_users_import(module: str) -> None:
    home = import_module(module)
    assert [name for name in PUBLIC[module] if not hasattr(home, name)] == []
