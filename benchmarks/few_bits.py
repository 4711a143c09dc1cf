"""What quantized exports of a run cost in perplexity, by bits and groups.

usage: python benchmarks/few_bits.py RUN > benchmarks/results/few_bits.md        (minutes of one core)

RUN was trained on a prepared set that is here, whose validation text measures. Every step is a command of `lost`.
"""

import sys
import tempfile
from pathlib import Path

from commands import lost
from common import heading

from lost.checkpoint import find_checkpoint


def main(run: Path) -> None:
    """Print one table."""
    config = find_checkpoint(run)[0].config
    projection = config.projection
    print(heading("In few bits", "mlx-lm", words="RUN"), end="; ")
    print(f"{projection.kind}, {config.model.hidden_size} wide, rank {projection.rank}, align {projection.align}\n")
    print("| bits | group | scales in | matrices | kept as they were | bits a weight | perplexity before | after |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for bits, group, dtype in ((8, 32, "float32"), (4, 32, "float32"), (4, 32, "bfloat16"), (4, 64, "float32")):
            few = ("--bits", bits, "--group-size", group, "--dtype", dtype)
            found = lost("convert", run, Path(folder) / "out", "--to", "mlx-lm", *few, "--overwrite")["quantization"]
            cells = [bits, group, dtype, found["matrices"], len(found["kept"]), f"{found['bits_per_weight']:.2f}"]
            cells += [f"{found['perplexity'][each]:.2f}" for each in ("before", "after")]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
