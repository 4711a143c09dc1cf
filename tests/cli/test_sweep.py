"""`lost sweep` as a user meets it: stopped and gone on with, and what is said of a run that fails."""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Process, start_python
from runs import make_run

from lost.cli.render.sweep import SweepScreen
from lost.data.dataset import Dataset
from lost.data.mixture import with_data
from lost.model.load import load_config
from lost.planning.horizon import with_steps
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.sweep.plan import read_sweep
from lost.sweep.results import Results
from lost.sweep.runner import Runner

GRID = "grid: {projection.kind: [dense, lost]}\n"


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs start with torch imported, and are looked at often."""

    def start(command: list[str], errors: int, environment: dict[str, str]) -> Process:
        return start_python(*command[1:], **environment)

    monkeypatch.setattr("lost.sweep.runner.start_process", start)
    monkeypatch.setattr("lost.sweep.runner._WAIT", 0.05)


@pytest.fixture
def file(tmp_path: Path, tiny_yaml: Path) -> Path:
    path = tmp_path / "kinds.yaml"
    path.write_text(f"config: {tiny_yaml}\n{GRID}")
    return path


def losses(folder: Path) -> dict[str, float]:
    return {row["name"]: row["loss"] for row in map(json.loads, (folder / "results.jsonl").read_text().splitlines())}


@pytest.fixture
def arguments(file: Path, prepared: Dataset) -> list[object]:
    return ["sweep", file, "--data", prepared.path, "--backend", "torch", "--device", "cpu", "--threads", 1]


@pytest.mark.usefixtures("forked")
def test_a_stopped_sweep_saves_its_runs_and_goes_on(
    lost: Callable, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lost(*arguments, "--out", tmp_path / "whole", "--json")
    assert whole.code == 0, whole.err
    answer = json.loads(whole.out)
    assert answer["complete"]
    assert {row["cell"]["projection.kind"] for row in answer["results"]} == {"dense", "lost"}
    assert "dense-seed0: loss" in whole.err

    keep = Results.keep

    def keep_and_stop(self: Results, *what: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return keep(self, *what)

    monkeypatch.setattr(Results, "keep", keep_and_stop)
    stopped = lost(*arguments, "--out", tmp_path / "stopped")
    assert stopped.code == 143, stopped.err
    assert len(losses(tmp_path / "stopped")) == 1
    assert "goes on" in stopped.out
    monkeypatch.setattr(Results, "keep", keep)
    again = lost(*arguments, "--out", tmp_path / "stopped", "--jobs", 2)
    assert again.code == 0, again.err
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert "| lost |" in (tmp_path / "stopped" / "table.md").read_text()


@pytest.mark.usefixtures("forked")
def test_a_killed_sweep_goes_on_beside_the_run_that_it_left(
    lost: Callable, arguments: list[object], file: Path, tiny_yaml: Path, tmp_path: Path
) -> None:
    """Nothing ends the run that a killed sweep had begun: it is waited for, and not trained twice at once."""
    file.write_text(f"config: {tiny_yaml}\nseeds: [3]\n")
    with start_python("-m", "lost", *arguments, "--out", tmp_path / "killed") as sweep:
        while not (tmp_path / "killed" / "seed3" / ".lock").exists():
            assert sweep.poll() is None
        sweep.kill()
    done = lost(*arguments, "--out", tmp_path / "killed")
    assert done.code == 0, done.err
    assert lost(*arguments, "--out", tmp_path / "whole").code == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.usefixtures("forked")
def test_a_run_that_is_refused_ends_the_sweep_with_its_reason(
    lost: Callable, file: Path, arguments: list[object], tmp_path: Path
) -> None:
    done = lost("sweep", file, "--data", tmp_path / "nothing", "--out", tmp_path / "out")
    assert done.code == 2
    assert "nothing doesn't exist" in done.err
    taught = {"teacher": {"taught": {"teacher.path": str(tmp_path / "nowhere")}}}
    file.write_text(file.read_text().replace(GRID, f"grid: {json.dumps(taught)}\n"))
    done = lost(*arguments, "--out", tmp_path / "out")
    assert done.code == 2
    assert "taught-seed0: " in done.err
    assert "nowhere" in done.err


@pytest.mark.parametrize("axis", ["data.path: [{}]", "text: {{one: {{data.mixture: {{{}: 1}}}}}}"])
def test_data_is_named_by_the_grid_or_by_an_option(
    lost: Callable, arguments: list[object], file: Path, prepared: Dataset, tmp_path: Path, axis: str
) -> None:
    """The option would have every place of the grid read the same."""
    file.write_text(file.read_text().replace(GRID, f"grid: {{{axis.format(prepared.path)}}}\n"))
    done = lost(*arguments, "--out", tmp_path / "out")
    assert done.code == 2
    assert f"--data {prepared.path}: the grid sets data." in done.err
    assert not (tmp_path / "out").exists()


def test_a_wrong_file_is_refused_before_anything_is_made(lost: Callable, file: Path, tmp_path: Path) -> None:
    file.write_text(file.read_text().replace("kind", "kinds"))
    done = lost("sweep", file, "--out", tmp_path / "out")
    assert done.code == 2
    assert "kinds.yaml:2: projection.kinds" in done.err
    assert not (tmp_path / "out").exists()


def test_sensitivity_of_no_search_is_refused_before_anything_is_made(
    lost: Callable, file: Path, tmp_path: Path
) -> None:
    done = lost("sweep", file, "--out", tmp_path / "out", "--sensitivity")
    assert (done.code, "the sweep searches nothing" in done.err) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("forked")
def test_sensitivity_of_a_sweep_that_is_done(
    lost: Callable, arguments: list[object], file: Path, tiny_yaml: Path, tmp_path: Path
) -> None:
    file.write_text(f"config: {tiny_yaml}\nsearch: {{optimizer.lr: [5.0e-3]}}\n")
    made = [Results(read_sweep(file), tmp_path / "out")]
    while pending := [each for each in made[0].trials() if made[0].row(each) is None]:
        config = with_data(made[0].sweep.configuration(pending[0]), Dataset(arguments[3]))
        loss = 3 + abs(math.log2(pending[0].value / 1e-2))
        make_run(made[0].folder / pending[0].name, config, {1: loss})
        made[0].keep(pending[0].name, {"validation_loss": loss, "bits_per_byte": None, "tokens": 64}, 1)
    done = lost(*arguments, "--out", tmp_path / "out", "--sensitivity", "--json")
    (row,) = json.loads(done.out)["sensitivity"]
    assert (row["best"], row["loss"], row["sensitivity"]) == (1e-2, 3, 1)  # of 5, 4, 3 and 4
    assert "mean excess" in lost(*arguments, "--out", tmp_path / "out", "--sensitivity").out


def test_a_terminal_shows_how_far_a_run_is_whose_length_is_in_tokens(
    file: Path, tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its steps are in its own configuration; the sweep's has none. A run without either file is about to begin."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    tiny_yaml.write_text(tiny_yaml.read_text().replace("  steps: 20\n", "  tokens: 1280\n"))
    results = Results(read_sweep(file), tmp_path / "out")
    run = make_run(
        tmp_path / "out" / "dense-seed0", with_steps(load_config(tiny_yaml, ["model.vocab_size=99"])), {7: 3}
    )
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 7, "loss_mean": 3.25}) + "\n")
    runner = Runner([], tmp_path / "out", 1)
    runner.running = {trial.name: (trial.wanted, None) for trial in results.trials()}
    screen = SweepScreen(results, runner, on_stderr=False)
    with screen.live():
        screen.refresh()
        shown = capsys.readouterr().out
    assert "step 7/20  loss 3.2500" in shown
    assert "starting" in shown


def test_a_terminal_shows_axes_as_they_are_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would colour the terminal, or clear it, in a stranger's file."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    file.write_text(file.read_text().replace("projection.kind: [", '"[red]size\\e[2J": {one: {}}, projection.kind: ['))
    screen = SweepScreen(Results(read_sweep(file), tmp_path / "out"), Runner([], tmp_path / "out", 1), on_stderr=False)
    with screen.live():
        screen.refresh()
        shown = capsys.readouterr().out
    assert "[red]size" in shown
    assert "\x1b[2J" not in shown


@pytest.mark.usefixtures("forked")
def test_data_that_the_configuration_names_is_known_too(
    lost: Callable,
    file: Path,
    tiny_yaml: Path,
    arguments: list[object],
    prepared: Dataset,
    text_folder: Path,
    tmp_path: Path,
) -> None:
    """Prepared anew under the same name, its losses would stand beside those of before."""
    data = tmp_path / "data"
    shutil.copytree(prepared.path, data)
    tiny_yaml.write_text(tiny_yaml.read_text().replace("data:\n", f"data:\n  path: {data}\n"))
    file.write_text(f"config: {tiny_yaml}\nseeds: [3]\n")
    command = [each for each in arguments if each not in ("--data", prepared.path)]
    assert lost(*command, "--out", tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out" / "results.jsonl").read_text())["data"] == prepared.fingerprint
    shutil.rmtree(data)
    prepare(Sources([text_folder]), data, 300, 0.1)
    done = lost(*command, "--out", tmp_path / "out")
    assert (done.code, "read other data (seed3 for one)" in done.err) == (2, True)


def test_a_file_that_is_not_there(lost: Callable, tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        assert "did you mean" not in lost("plan", path).err  # its own name
        done = lost("sweep", path)
        assert (done.code, done.err.startswith(f"lost: {path} is no file; expected a sweep in YAML")) == (2, True)
