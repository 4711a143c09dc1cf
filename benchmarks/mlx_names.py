"""Names in MLX that we rely on: whether its wheel for Macs still has them, to be asked again when its pin changes.

usage: python benchmarks/mlx_names.py [VERSION]      (downloads 45 MB with pip; exit code 1: one is gone)

Where one is gone, what is said in the table's last column is to be read again in MLX's source, and changed here.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from lost.planning.memory.mlx import FUSED_WIDTHS

PINS = Path(__file__).parents[1] / "constraints.txt"
LIBRARY, KERNELS = "mlx/lib/libmlx.dylib", "mlx/lib/mlx.metallib"
ANYWHERE = {  # in MLX for Linux too
    "MLX_RANK": "lost/distributed: which worker this is",
    "MLX_HOSTFILE": "lost/distributed: whether a ring was started, and who is on this machine",
}
IN_LIBRARY = {
    **ANYWHERE,
    "MLX_ENABLE_TF32": "cli/commands/beforehand/tf32.py: the self-test once more",
    "MLX_SDPA_VJP_FALLBACK": "lost/planning/memory/mlx.py: whether attention keeps scores",
    "[METAL] Command buffer": "lost/errors.py: memory runs out, or macOS ends a computation",
}
IN_KERNELS = {
    **{
        f"sdpa_vjp_odo_{dtype}_{width}": "lost/planning/memory/mlx.py: widths of heads without scores"
        for dtype in ("float", "bfloat16_t")
        for width in sorted(FUSED_WIDTHS)
    },
    "vjp_rmsfloat32": "backends/mlx/model.py: a norm is one kernel each way",
    "cross_entropy_float32": "backends/mlx/kernels/loss.py: scores",
    "cross_entropy_vjp_float32": "docs/experiments.md: a loss that wasn't taken",
}


def gone(content: bytes, names: Iterable[str]) -> list[str]:
    """Return the names that a library doesn't have, each as a whole word."""
    return [name for name in names if not re.search(rb"(?<!\w)" + re.escape(name.encode()) + rb"(?!\w)", content)]


def pinned() -> str:
    """Return the version of MLX that constraints.txt has."""
    return next(line.strip().removeprefix("mlx==") for line in PINS.open() if line.startswith("mlx=="))


def main() -> None:
    """Print one table, and say by the exit code whether a name is gone."""
    version = sys.argv[1] if len(sys.argv) > 1 else pinned()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--platform", "macosx_14_0_arm64", "--dest", folder, f"mlx-metal=={version}"]
        subprocess.run(command, check=True)
        wheel = zipfile.ZipFile(next(Path(folder).glob("*.whl")))
        content = {name: wheel.read(name) for name in (LIBRARY, KERNELS)}
    print(f"# Names in MLX for Macs\n\n`python benchmarks/mlx_names.py`: mlx-metal {version}\n")
    print("| name | is there | who relies on it |\n| --- | --- | --- |")
    missing = 0
    for file, names in ((LIBRARY, IN_LIBRARY), (KERNELS, IN_KERNELS)):
        absent = gone(content[file], names)
        missing += len(absent)
        for name, reason in names.items():
            print(f"| `{name}` | {'**no**' if name in absent else 'yes'} | {reason} |")
    print(f"\nmissing: {missing}")
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()
