"""The core knows no framework and no command line: shown in fresh interpreters."""

from processes import run_python

CORE = """
import importlib, pathlib, sys
import lost
folder = pathlib.Path(lost.__file__).parent
names = [p.relative_to(folder).with_suffix("") for p in folder.rglob("*.py")]
names += [p.relative_to(folder).with_suffix("") for p in (folder / "projections").glob("*.py")]
core = {".".join(("lost", *n.parts)).removesuffix(".__init__") for n in names
        if n.parts[0] not in ("backends", "cli", "configs", "__main__") and "templates" not in n.parts}
assert len(core) > 20, core
for name in core:
    importlib.import_module(name)
lost.decompose, lost.Config
foreign = {"torch", "mlx", "typer", "transformers"} & set(sys.modules)
assert not foreign, foreign
"""

LIGHT = """
import sys
import lost.cli.main
heavy = {"torch", "mlx", "numpy", "scipy", "pydantic", "yaml", "sentencepiece", "rich"} & set(sys.modules)
assert not heavy, heavy
"""


def test_core_imports_no_framework_and_no_command_line() -> None:
    run_python("-c", CORE, cold=True, check=True)


def test_command_line_starts_light() -> None:
    run_python("-c", LIGHT, cold=True, check=True)
