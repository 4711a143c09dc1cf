"""What a command replaces unasked: files that it has made itself, and no others."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import make_run

from lost.data.dataset import Dataset
from lost.model.load import load_config
from lost.sweep.plan import read_sweep
from lost.sweep.results import CONFIG, LINES, Results

Lost = Callable[..., Any]
FOREIGN = "<!doctype html>\n<title>mine</title>\n<p>Written with `lost report` open beside it, for weeks.</p>\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", load_config("quickstart", ["model.vocab_size=99"]), {1: 3.0, 2: 2.0})


def test_a_page_replaces_pages_alone(lost: Lost, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    command = ("report", run, "--no-layers", "--out", out)
    out.write_text(FOREIGN)
    refused = lost(*command)
    assert refused.code == 2
    assert f"--out {out}: a file is there that `lost report` hasn't made" in refused.err
    assert "or add --overwrite" in refused.err
    assert out.read_text() == FOREIGN
    assert lost(*command, "--overwrite").code == 0
    text = out.read_text()
    assert '<meta name="generator" content="lost ' in text[:500]
    assert lost(*command).code == 0
    marked = next(line for line in text.splitlines() if "generator" in line)
    out.write_text(text.replace(f"{marked}\n", ""))  # as earlier versions wrote it
    assert lost(*command).code == 0


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "eps"])
def test_a_plot_replaces_plots_alone(lost: Lost, run: Path, tmp_path: Path, suffix: str) -> None:
    from matplotlib.figure import Figure

    out = tmp_path / f"loss.{suffix}"
    command = ("plot", run, "--x", "steps", "--out", out)
    assert [lost(*command).code for _ in range(2)] == [0, 0]
    figure = Figure()
    figure.suptitle("lost plot")
    figure.savefig(out)
    mine = out.read_bytes()
    refused = lost(*command)
    assert (refused.code, "`lost plot` hasn't made" in refused.err) == (2, True), refused.err
    assert out.read_bytes() == mine
    assert lost(*command, "--overwrite").code == 0
    assert out.read_bytes() != mine


def test_a_picture_that_holds_no_mark_is_replaced_when_that_is_asked_for(lost: Lost, run: Path, tmp_path: Path) -> None:
    command = ("plot", run, "--x", "steps", "--out", tmp_path / "loss.jpg")
    assert [lost(*command, *more).code for more in ((), (), ("--overwrite",))] == [0, 2, 0]


@pytest.mark.parametrize("command", ["report", "plot"])
def test_what_is_no_file_is_never_replaced(lost: Lost, run: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "folder.png").mkdir()
    refused = lost(command, run, "--out", tmp_path / "folder.png", "--overwrite")
    assert (refused.code, (tmp_path / "folder.png").is_dir()) == (2, True), refused.err


@pytest.fixture
def file(tmp_path: Path, tiny_yaml: Path) -> Path:
    path = tmp_path / "kinds.yaml"
    path.write_text(f"config: {tiny_yaml}\ngrid: {{projection.kind: [dense, lost]}}\n")
    return path


@pytest.mark.parametrize("names", [["table.md"], ["notes.txt"], [LINES], [CONFIG, "table.md"], [CONFIG, LINES]])
def test_a_sweep_fills_no_folder_of_another(
    lost: Lost, file: Path, prepared: Dataset, tmp_path: Path, names: list[str]
) -> None:
    """Not even where a configuration lies there that is the sweep's own."""
    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).write_text("mine\n")
    if CONFIG in names:
        begun = Results(read_sweep(file), tmp_path / "begun")
        shutil.copy(begun.config, out / CONFIG)
    before = {path: path.read_bytes() for path in out.glob("[!.]*")}
    refused = lost("sweep", file, "--data", prepared.path, "--out", out)
    assert refused.code == 2
    assert str(out) in refused.err
    assert {path: path.read_bytes() for path in out.glob("[!.]*")} == before


def test_a_sweep_goes_on_in_its_own_folder(file: Path, tmp_path: Path) -> None:
    """Begun anew, by this version or before it, in a folder that is empty but for what a system hides there."""
    plan, out = read_sweep(file), tmp_path / "out"
    out.mkdir()
    (out / ".DS_Store").touch()
    Results(plan, out)
    Results(plan, out)
    (out / LINES).unlink()
    (out / "dense-seed0").mkdir()
    (out / "dense-seed0.log").touch()
    Results(plan, out)
