"""The wheel in empty environments of this Python: with no extra, with each backend, and with all.

usage: PYTHON benchmarks/wheels.py WHEEL [EXTRAS ...] >> benchmarks/results/wheels.md        (minutes, and gigabytes)

Needs nothing but Python itself. Each environment must train for ten steps if it has a backend, and say what to install
if it has none. The time is the best of five `lost --help`.
"""

import platform
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

EXTRAS = ("", "torch", "mlx", "all")
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def main(wheel: str, *extras: str) -> None:
    """Print a row for each environment."""
    for extra in extras or EXTRAS:
        with tempfile.TemporaryDirectory() as folder:
            print("|", " | ".join(row(Path(folder), Path(wheel).resolve(), extra)), "|", flush=True)


def row(folder: Path, wheel: Path, extra: str) -> list[str]:
    """Return what came of one environment."""
    venv.create(folder / "env", with_pip=True)
    python, lost = folder / "env/bin/python", folder / "env/bin/lost"
    wanted = f"lost-pretrain[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
    run(folder, python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "-c", CONSTRAINTS, wanted)
    run(folder, lost, "doctor", code=0 if extra else 1)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        run(folder, lost, "--help")
        times.append(time.perf_counter() - begun)
    packages = run(folder, python, "-m", "pip", "list", "--format=freeze").splitlines()
    (folder / "text.txt").write_text("\n\n".join(f"The number {n} is {n:b} in twos." for n in range(20_000)))
    run(folder, lost, "prepare", "text.txt", "--vocab-size", "300", "--out", "data")
    backends = {"": [], "all": ["torch", "mlx"]}.get(extra, [extra])
    trained = [train(folder, lost, name) for name in backends] or [refuses(folder, lost)]
    size = sum(path.stat().st_size for path in (folder / "env").rglob("*") if path.is_file()) / 2**20
    return [
        f"{platform.python_version()}, {platform.system()}",
        extra or "none",
        str(len(packages)),
        f"{size:,.0f}",
        f"{min(times):.2f}",
        ", ".join(trained),
    ]


def train(folder: Path, lost: Path, backend: str) -> str:
    """Train for some steps."""
    settings = ["schedule.steps=10", "schedule.warmup_steps=2", "data.seq_len=64", "train.eval_every=0"]
    run(folder, lost, "train", "quickstart", *settings, "--data", "data", "--out", backend, "--backend", backend)
    return f"trained with {backend}"


def refuses(folder: Path, lost: Path) -> str:
    """Ask for a training without a backend."""
    said = run(folder, lost, "train", "quickstart", "--data", "data", code=2)
    assert "pip install" in said, said
    return "says what to install"


def run(folder: Path, *command: object, code: int = 0) -> str:
    """Return what a command printed; it must end with `code`."""
    line = list(map(str, command))
    done = subprocess.run(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != code:
        sys.exit(f"{' '.join(line)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
