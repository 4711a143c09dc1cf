"""Times of a study's steps: its final's methods take a step each in turns, in one process.

usage: python benchmarks/step_times.py benchmarks/studies/NAME.yaml      (on a quiet machine; PyTorch on a CPU)

Writes benchmarks/results/NAME-steps.json, which `study.py` reads to give other methods the time of the first.
"""

import json
import platform
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
import yaml

from lost import __version__
from lost.backends.torch.engine import TorchEngine
from lost.bench.compare import random_batches, random_parameters
from lost.bench.timing import summarize, time_interleaved
from lost.config import Config
from lost.model.load import load_config
from lost.planning.budget import budget
from lost.utils.machine import processor_name

ROUNDS = 15


def main() -> None:
    """Time all methods and write the file."""
    path = Path(sys.argv[1])
    spec = yaml.safe_load(path.read_text())
    if program := spec.get("program"):
        import_module(Path(program).stem)
    results = Path(__file__).parent / "results"
    base = results / f"{path.stem}-config.yaml"
    base.write_text(yaml.safe_dump(spec["config"]))
    configs = {
        method: load_config(str(base), [f"{key}={json.dumps(value)}" for key, value in variant["set"].items()])
        for method, variant in spec["final"].items()
    }
    base.unlink()
    times = time_interleaved({method: step(config) for method, config in configs.items()}, ROUNDS)
    first = next(iter(configs))
    reference = summarize(times, first)["seconds"]["median"]
    methods = {}
    for method, config in configs.items():
        seconds, counts = summarize(times, method)["seconds"], budget(config)
        methods[method] = {
            "seconds": seconds,
            "relative": seconds["median"] / reference,
            "parameters": counts.parameters,
            "memory_bytes": counts.memory.total,
        }
    versions = {"lost": __version__, "torch": torch.__version__, "python": platform.python_version()}
    machine = {"processor": processor_name(), "threads": torch.get_num_threads(), "rounds": ROUNDS}
    text = json.dumps({"versions": versions, "machine": machine, "methods": methods}, indent=2)
    (results / f"{path.stem}-steps.json").write_text(text + "\n")
    print(text)


def step(config: Config) -> Callable[[], object]:
    """Return a function that takes a step of training."""
    engine = TorchEngine(config, "cpu")
    engine.load(random_parameters(config))
    batches = list(random_batches(config))
    predictions = sum(batch.predictions for batch in batches)
    return lambda: engine.step(batches, predictions, 1e-5).wait()


if __name__ == "__main__":
    main()
