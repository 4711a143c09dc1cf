"""What quantised exports of a run cost in perplexity, by bits and groups.

usage: python benchmarks/few_bits.py RUN > benchmarks/results/few_bits.md        (minutes of one core)

RUN was trained on a prepared set that is here, whose validation text measures. Every step is a command of `lost`.
"""

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lost import __version__
from lost.checkpoint import find_checkpoint
from lost.utils.machine import processor_name


def converted(run: Path, out: Path, bits: int, group: int, dtype: str) -> dict[str, Any]:
    """Export a run in few bits; return the answer."""
    options = ("--to", "mlx-lm", "--bits", bits, "--group-size", group, "--dtype", dtype, "--overwrite", "--json")
    command = [sys.executable, "-m", "lost", "convert", str(run), str(out), *map(str, options)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main(run: Path) -> None:
    """Print one table."""
    config = find_checkpoint(run)[0].config
    projection = config.projection
    print("# In few bits\n")
    print(f"`python benchmarks/few_bits.py RUN`, lost {__version__}, mlx-lm {version('mlx-lm')}, {processor_name()};")
    print(f"{projection.kind}, {config.model.hidden_size} wide, rank {projection.rank}, align {projection.align}\n")
    print("| bits | group | scales in | matrices | kept as they were | bits a weight | perplexity before | after |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for bits, group, dtype in ((8, 32, "float32"), (4, 32, "float32"), (4, 32, "bfloat16"), (4, 64, "float32")):
            found = converted(run, Path(folder) / "out", bits, group, dtype)["quantization"]
            cells = [bits, group, dtype, found["matrices"], len(found["kept"]), f"{found['bits_per_weight']:.2f}"]
            cells += [f"{found['perplexity'][each]:.2f}" for each in ("before", "after")]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
