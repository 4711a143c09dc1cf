"""Methods compared at equal tokens and equal time, each at its best, over seeds; searches, screens and ablations.

usage: python benchmarks/study.py benchmarks/studies/NAME.yaml --data DIR [--work DIR] [--jobs N] [--threads N]

Every run is a `lost train`. What is done is kept, a line a run, in benchmarks/results/NAME.jsonl: stopped at any time,
the same command goes on, unfinished runs from their checkpoints. The table and the plots beside it are written anew
after each run (`study_report.py`).
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from study_report import write_report

from lost.model.load import load_config
from lost.planning.budget import budget

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
    for group, relative in (("final", None), ("equal time", times)):
        for seed in spec["seeds"]:
            for method, variant in spec.get("final", {}).items():
                settings = dict(variant["set"])
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
        if best.lr == lrs[0]:
            lrs.insert(0, best.lr / 2)
        elif best.lr == lrs[-1]:
            lrs.append(best.lr * 2)
        elif fresh:
            tried[fresh].append(best.lr)
        else:
            return runs


class Study:
    """The runs in hand and what came of those that are done."""

    def __init__(self, path: Path, data: Path, work: Path, threads: int) -> None:
        self.spec = yaml.safe_load(path.read_text())
        self.program = ["-m", "lost"]
        if program := self.spec.get("program"):
            self.program = [str(Path(__file__).with_name(program))]
            import_module(Path(program).stem)  # registers what it adds
        self.data, self.work, self.threads = data, work / path.stem, threads
        self.log = RESULTS / f"{path.stem}.jsonl"
        steps = self.log.with_name(f"{path.stem}-steps.json")
        measured = json.loads(steps.read_text())["methods"] if steps.exists() else {}
        self.times = {method: each["relative"] for method, each in measured.items()}
        self.rows = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        self.work.mkdir(parents=True, exist_ok=True)
        self.config = self.work / "config.yaml"
        self.config.write_text(yaml.safe_dump(self.spec["config"]))
        self.running: dict[str, tuple[Run, subprocess.Popen[str]]] = {}

    def losses(self) -> Losses:
        """Return the validation loss of every finished run; of one that diverged, infinity."""
        return {row["name"]: float(row["loss"]) for row in self.rows}

    def next(self) -> Run | None:
        """Return a run to begin now, if there is one."""
        losses = self.losses()
        pending = (run for run in wanted(self.spec, losses, self.times) if run.name not in losses)
        return next((run for run in pending if run.name not in self.running), None)

    def begin(self, run: Run) -> None:
        """Start or resume a run."""
        command = [sys.executable, *self.program, "train", str(self.config), "--backend", "torch", "--json"]
        command += ["--data", str(self.data), "--out", str(self.work / run.name)]
        for setting in self.overrides(run):
            command += ["--set", setting]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with (self.work / f"{run.name}.log").open("a") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        self.running[run.name] = (run, process)
        print(f"{time.strftime('%H:%M:%S')} {run.name}", flush=True)

    def overrides(self, run: Run) -> list[str]:
        """Return what the run sets, as `--set` takes it."""
        settings = {**dict(run.settings), "optimizer.lr": run.lr, "train.seed": run.seed}
        return [f"{key}={json.dumps(value)}" for key, value in settings.items()]

    def collect(self) -> None:
        """Take the results of runs that have ended."""
        for name, (run, process) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            answer = process.communicate()[0]
            if process.returncode == 0:
                result = json.loads(answer)
            elif process.returncode == 1 and "expected finite" in (self.work / f"{name}.log").read_text():
                result = {"validation_loss": float("inf"), "bits_per_byte": float("inf"), "tokens": None}
            else:
                raise SystemExit(f"{name} ended with {process.returncode}; see {self.work / name}.log")
            self.keep(run, result)

    def keep(self, run: Run, result: dict[str, Any]) -> None:
        """Write a line about a finished run, and the report; drop its checkpoints."""
        config = load_config(str(self.config), self.overrides(run))
        metrics = (self.work / run.name / "metrics.jsonl").read_text().splitlines()
        steps = [row for row in map(json.loads, metrics) if "tokens_per_second" in row]
        per_step = config.train.batch_size * config.data.seq_len
        row = {
            "name": run.name,
            **asdict(run),
            "settings": dict(run.settings),
            "loss": result["validation_loss"],
            "bits_per_byte": result["bits_per_byte"],
            "tokens": result["tokens"],
            "parameters": budget(config).parameters,
            "step_seconds": statistics.median(per_step / step["tokens_per_second"] for step in steps),
            "memory_bytes": max(step["memory_bytes"] for step in steps),
            "threads": self.threads,
        }
        if run.group == "final":
            row["curve"] = [[step["step"] * per_step, step["loss"]] for step in steps]
        self.rows.append(row)
        with self.log.open("a") as log:
            log.write(json.dumps(row) + "\n")
        for path in (self.work / run.name / "checkpoints").rglob("*.safetensors"):
            path.unlink()
        write_report(self.spec, self.rows, self.log.with_suffix(".md"))

    def stop(self) -> None:
        """Have every run save itself and end."""
        for _, process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for _, process in self.running.values():
            process.wait()


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
    try:
        while True:
            study.collect()
            while len(study.running) < options.jobs and (run := study.next()):
                study.begin(run)
            if not study.running:
                break
            time.sleep(1)
    finally:
        study.stop()
    write_report(study.spec, study.rows, study.log.with_suffix(".md"))


if __name__ == "__main__":
    main()
