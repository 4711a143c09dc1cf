"""What is imported for what: shown in fresh interpreters."""

from pathlib import Path

from processes import run_python

from lost.data.dataset import Dataset

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

AFTER = """
import sys
import lost.utils.machine
from lost.cli.main import main
lost.utils.machine.may_have_accelerator = lambda: False
unwanted, sys.argv = sys.argv[1].split(","), ["lost", *sys.argv[2:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
found = [name for name in unwanted if name in sys.modules]
assert not found, found
"""


def test_core_imports_no_framework_and_no_command_line() -> None:
    run_python("-c", CORE, cold=True, check=True, LD_PRELOAD="")  # beside PyTorch's library llama.cpp aborts


def test_command_line_starts_light() -> None:
    run_python("-c", LIGHT, cold=True, check=True)


def test_counting_takes_no_framework() -> None:
    run_python("-c", AFTER, "torch,mlx.core,scipy.linalg,scipy.special", "plan", "llama_60m", cold=True, check=True)


def test_one_process_imports_nothing_of_many_and_no_compiler(
    tiny_yaml: Path, prepared: Dataset, tmp_path: Path
) -> None:
    """Each of the two takes as long to import as the rest of PyTorch together."""
    train = ["train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--set", "schedule.steps=2"]
    unwanted = "torch.distributed.fsdp,torch._dynamo,sympy,mlx.core"
    run_python("-c", AFTER, unwanted, *train, "--backend", "torch", "--device", "cpu", cold=True, check=True)
