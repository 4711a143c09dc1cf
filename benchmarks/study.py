"""Methods compared at equal tokens and equal time, each at its best, over seeds; searches, screens and ablations.

usage: python benchmarks/study.py benchmarks/studies/NAME.yaml --data DIR [--work DIR] [--jobs N] [--threads N]

Every run is a `lost train`, begun and collected by the runner of `lost sweep`. What is done is kept, a line a run, in
benchmarks/results/NAME.jsonl: stopped at any time, the same command goes on, unfinished runs from their checkpoints.
The table and the plots beside it are written anew after each run (`study_report.py`).
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from study_report import write_report

from lost.sweep.runner import Runner, Wanted, measured, work_off
from lost.sweep.search import beyond
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.metrics import read_rows

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        method: its name in the study.
        group: the ablation it belongs to, or None.
        scale: name of the initial scale.
        lr: peak learning rate.
        seed: of the run.
        settings: what is set beside the study's configuration.
    """

    method: str
    group: str | None
    scale: str
    lr: float
    seed: int
    settings: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """A folder's name."""
        text = f"{self.group or ''}-{self.method}-{self.scale}-{self.lr:g}-{self.seed}"
        return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in text).strip("-")

    @property
    def overrides(self) -> list[str]:
        """What it sets, as `--set` takes it."""
        settings = {**dict(self.settings), "optimizer.lr": self.lr, "train.seed": self.seed}
        return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


Losses = dict[str, float]  # by the run's name


def wanted(spec: dict[str, Any], losses: Losses, times: dict[str, float]) -> Iterator[Run]:
    """Yield the runs that are known to be needed.

    Args:
        spec: the study.
        losses: validation losses of the runs that are done.
        times: of the final's methods, a step's relative to the first method's, if they have been measured.
    """
    for method, variant in spec.get("screen", {}).items():
        for lr in variant["lrs"]:
            yield Run(method, "screen", "", lr, spec["seeds"][0], tuple(variant["set"].items()))
    final = spec.get("final", {})
    for seed, (group, relative) in product(spec["seeds"], (("final", None), ("equal time", times))):
        for method, variant in final.items():
            settings = dict(variant["set"])
            if seed not in variant.get("seeds", spec["seeds"]):
                continue
            if relative is not None:
                share = relative.get(method, 1.0)  # the first method's is 1: it has run already
                if share == 1.0:
                    continue
                settings["schedule.steps"] = round(spec["config"]["schedule"]["steps"] / share)
            yield Run(method, group, "", variant["lr"], seed, tuple(settings.items()))
    best: dict[str, Run] = {}
    for method in spec.get("methods", {}):
        found = None
        for run in searched(spec, method, losses):
            yield run
            if run.name in losses and (found is None or losses[run.name] < losses[found.name]):
                found = run
        if found is not None and all(run.name in losses for run in searched(spec, method, losses)):
            best[method] = found
    for method, run in best.items():
        for seed in spec["seeds"][1:]:
            yield Run(method, None, run.scale, run.lr, seed, run.settings)
    for group, variants in spec.get("ablations", {}).items():
        for name, variant in variants.items():
            if variant["of"] in best:
                base = best[variant["of"]]
                settings = (*base.settings, *variant["set"].items())
                yield Run(name, group, base.scale, base.lr, spec["seeds"][0], settings)


def searched(spec: dict[str, Any], method: str, losses: Losses) -> list[Run]:
    """Return the runs over rates and scales that a method's search has come to."""

    def run(scale: str, lr: float) -> Run:
        settings = {**spec["methods"][method]["set"], **spec["scales"][scale]}
        return Run(method, None, scale, lr, spec["seeds"][0], tuple(settings.items()))

    first, *others = spec["scales"]
    tried = {first: sorted(spec["methods"][method]["lrs"]), **{scale: [] for scale in others}}
    while True:
        runs = [run(scale, lr) for scale, lrs in tried.items() for lr in lrs]
        if not all(each.name in losses for each in runs):
            return runs
        best = min(runs, key=lambda each: losses[each.name])
        lrs = tried[best.scale]
        fresh = next((scale for scale in others if not tried[scale]), None)
        if edge := beyond(lrs, best.lr):
            tried[best.scale] = sorted([*lrs, edge])
        elif fresh:
            tried[fresh].append(best.lr)
        else:
            return runs


class Study:
    """The runs that are done, and those in hand."""

    def __init__(self, path: Path, data: Path, work: Path, threads: int) -> None:
        self.spec = yaml.safe_load(path.read_text())
        program = ["-m", "lost"]
        if name := self.spec.get("program"):
            program = [str(Path(__file__).with_name(name))]
            import_module(Path(name).stem)  # registers what it adds
        self.work = work / path.stem
        self.log = RESULTS / f"{path.stem}.jsonl"
        steps = self.log.with_name(f"{path.stem}-steps.json")
        timed = json.loads(steps.read_text())["methods"] if steps.exists() else {}
        self.times = {method: each["relative"] for method, each in timed.items()}
        self.rows = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        self.work.mkdir(parents=True, exist_ok=True)
        self.config = self.work / "config.yaml"
        self.config.write_text(yaml.safe_dump(self.spec["config"]))
        command = [sys.executable, *program, "train", str(self.config), "--backend", "torch", "--json"]
        self.runner = Runner([*command, "--data", str(data)], self.work, threads)
        self.begun: dict[str, Run] = {}

    def losses(self) -> Losses:
        """Return the validation loss of every finished run; of one that diverged, infinity."""
        return {row["name"]: float(row["loss"]) for row in self.rows}

    def due(self) -> Wanted | None:
        """Return a run to begin now, if there is one."""
        losses = self.losses()
        pending = (run for run in wanted(self.spec, losses, self.times) if run.name not in losses)
        run = next((run for run in pending if run.name not in self.runner.running), None)
        if run is None:
            return None
        self.begun[run.name] = run
        print(f"{time.strftime('%H:%M:%S')} {run.name}", flush=True)
        return Wanted(run.name, run.overrides)

    def keep(self, name: str, answer: dict[str, Any]) -> None:
        """Write a line about a finished run, and the report; drop its checkpoints."""
        run, folder = self.begun[name], self.work / name
        row = {
            "name": name,
            **asdict(run),
            "settings": dict(run.settings),
            **measured(folder, answer, self.runner.threads),
        }
        if run.group == "final":
            steps = [each for each in read_rows(folder / METRICS) if "tokens_per_second" in each]
            row["curve"] = [[step["tokens"], step["loss_mean"]] for step in steps]
        self.rows.append(row)
        with self.log.open("a") as log:
            log.write(json.dumps(row) + "\n")
        for path in (folder / "checkpoints").rglob("*.safetensors"):
            path.unlink()
        write_report(self.spec, self.rows, self.log.with_suffix(".md"))


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder made by `lost prepare`")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="where runs live; default runs/study")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; default 2")
    parser.add_argument("--threads", type=int, default=1, help="threads a run; default 1")
    options = parser.parse_args()
    study = Study(options.study, options.data, options.work, options.threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    work_off(study.runner, options.jobs, study.due, study.keep)
    write_report(study.spec, study.rows, study.log.with_suffix(".md"))


if __name__ == "__main__":
    main()
