"""Runs that learn from a teacher: what they resume from, what they refuse, and what they say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lost.checkpoint import open_checkpoint
from lost.config import Config
from lost.data.dataset import Dataset
from lost.engine import create_engine
from lost.model.load import dump, load_config
from lost.storage.files import replace_text
from lost.tracking import Tracker
from lost.training.trainer import train

Run = Callable[..., Any]
SETTINGS = ("train.log_every=1", "train.save_every=5", "train.eval_every=0", "schedule.steps=10")


def trained(folder: Path, tiny_text: str, data: Dataset, *settings: str) -> Path:
    """Train a dense model for a few steps."""
    folder.mkdir()
    (folder / "tiny.yaml").write_text(tiny_text)
    sets = ["projection.kind=dense", "schedule.steps=4", "train.log_every=0", f"data.path={data.path}", *settings]
    config: Config = load_config(folder / "tiny.yaml", ["model.vocab_size=320", *sets])
    replace_text(folder / "config.yaml", dump(config))
    train(config, folder, data, create_engine(config, "torch", "cpu"), Tracker())
    return folder


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, prepared: Dataset, tiny_text: str) -> dict[str, Path]:
    """Two models of a few steps, of other widths than the student's."""
    folder = tmp_path_factory.mktemp("teachers")
    wide = ("model.hidden_size=24", "model.num_attention_heads=2", "model.num_key_value_heads=1")
    return {
        "wide": trained(folder / "wide", tiny_text, prepared, *wide),
        "other": trained(folder / "other", tiny_text, prepared, *wide, "train.seed=1"),
    }


@pytest.fixture
def run(lost: Run, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> Run:
    """Train the tiny model in a folder of that name, with settings."""

    def call(name: str, *settings: str, more: tuple[str, ...] = ()) -> Any:
        sets = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
        where = ("--data", prepared.path, "--out", tmp_path / name, "--device", "cpu")
        return lost("train", tiny_yaml, *where, *more, *sets)

    return call


def state(run: Path) -> dict[str, bytes]:
    found = open_checkpoint(sorted((run / "checkpoints").glob("step-*"))[-1])
    return {name: array.tobytes() for name, array in (*found.parameters(), *found.moments())}


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_resumed_run_is_the_same_to_the_bit(run: Run, teachers: dict, tmp_path: Path, backend: str) -> None:
    """The log has both parts; the teacher may stand elsewhere by then; validation is the text's alone."""
    taught, with_backend = f"teacher.path={teachers['wide']}", ("--backend", backend)
    done = run("straight", taught, more=with_backend)
    assert done.code == 0, done.err
    assert "  divergence " in done.out
    assert f"learning from {sorted((teachers['wide'] / 'checkpoints').glob('step-*'))[-1]} too: weight 0.5" in done.out
    assert run("stopped", taught, "train.stop_after=5", more=with_backend).code == 0
    moved = tmp_path / "moved"
    moved.symlink_to(teachers["wide"])
    assert run("stopped", f"teacher.path={moved}", more=with_backend).code == 0
    assert state(tmp_path / "straight") == state(tmp_path / "stopped")
    steps = [row for row in rows(tmp_path / "straight") if "loss" in row]
    assert all(row["divergence"] > 0 for row in steps)
    run("alone", more=with_backend)
    first = next(row for row in rows(tmp_path / "alone") if "loss" in row)
    assert "divergence" not in first
    assert first["loss"] == pytest.approx(steps[0]["loss"], rel=1e-6), "of the same weights: what is shown is CE"
    assert state(tmp_path / "alone") != state(tmp_path / "straight")


def test_another_teacher_is_refused_where_a_run_goes_on(run: Run, teachers: dict, tmp_path: Path) -> None:
    assert run("run", f"teacher.path={teachers['wide']}", "train.stop_after=5").code == 0
    before = state(tmp_path / "run")
    for settings, words in {
        (f"teacher.path={teachers['other']}",): "with other weights",
        ("teacher.path=null",): "name the same",
        (f"teacher.path={teachers['wide']}", "teacher.weight=0.7"): "teacher.weight = 0.7, was 0.5",
    }.items():
        for more in ((), ("--dry-run",)):
            refused = run("run", *settings, more=more)
            assert (refused.code, words in refused.err) == (2, True), refused.err
    assert state(tmp_path / "run") == before
    assert run("alone", "train.stop_after=5").code == 0
    refused = run("alone", f"teacher.path={teachers['wide']}")
    assert (refused.code, "without a teacher so far" in refused.err) == (2, True), refused.err


def test_an_export_is_the_teacher_that_its_run_was(run: Run, lost: Run, teachers: dict, tmp_path: Path) -> None:
    assert run("run", f"teacher.path={teachers['wide']}", "train.stop_after=5").code == 0
    assert lost("convert", teachers["wide"], tmp_path / "export", "--to", "hf").code == 0
    done = run("run", f"teacher.path={tmp_path / 'export'}")
    assert done.code == 0, done.err


def test_a_branch_may_lose_its_teacher(run: Run, lost: Run, teachers: dict, tmp_path: Path) -> None:
    assert run("run", f"teacher.path={teachers['wide']}", "train.stop_after=5").code == 0
    command = ("train", "--branch-from", tmp_path / "run", "--out", tmp_path / "branch", "--device", "cpu")
    assert lost(*command, "--set", "teacher.path=null", "--set", "train.stop_after=7").code == 0
    assert lost("train", tmp_path / "branch", "--device", "cpu", "--set", "train.stop_after=9").code == 0
    assert "divergence" not in rows(tmp_path / "branch")[-1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("teacher.path=nowhere",), "teacher.path: nowhere doesn't exist"),
        (("teacher.path={wide}", "teacher.weight=1.5"), "teacher.weight = 1.5"),
        (("teacher.path={wide}", "teacher.weight=-1"), "teacher.weight = -1"),
        (("teacher.path={wide}", "teacher.temperature=0"), "teacher.temperature = 0"),
        (("teacher.path={wide}", "model.vocab_size=400"), "it predicts 320 entries, and model.vocab_size = 400"),
        (("teacher.path={short}",), "it has 8 positions (max_position_embeddings), and data.seq_len ="),
    ],
)
def test_what_no_run_learns_from(
    run: Run, teachers: dict, tmp_path: Path, tiny_text: str, prepared: Dataset, settings: tuple, words: str
) -> None:
    named = dict(teachers)
    if "{short}" in settings[0]:
        limits = ("model.max_position_embeddings=8", "data.seq_len=8")
        named["short"] = trained(tmp_path / "short", tiny_text, prepared, *limits)
    refused = run("run", *(each.format(**named) for each in settings))
    assert (refused.code, words in refused.err) == (2, True), refused.err
    assert not (tmp_path / "run").exists()


def test_a_teacher_with_another_tokenizer_is_refused(
    lost: Run, run: Run, tiny_text: str, tmp_path: Path, text_folder: Path
) -> None:
    made = lost(
        "prepare", text_folder, "--out", tmp_path / "other-data", "--vocab-size", "300", "--valid-fraction", "0.2"
    )
    assert made.code == 0, made.err
    folder = trained(tmp_path / "foreign", tiny_text, Dataset(tmp_path / "other-data"))
    refused = run("run", f"teacher.path={folder}")
    assert (refused.code, "its tokenizer is not that of" in refused.err) == (2, True), refused.err


def test_a_teacher_without_numbers_is_refused(lost: Run, run: Run, teachers: dict, tmp_path: Path) -> None:
    assert lost("convert", teachers["wide"], tmp_path / "export", "--to", "hf", "--json").code == 0
    arrays = load_file(tmp_path / "export" / "model.safetensors")
    arrays["model.norm.weight"][3] = np.nan
    save_file(arrays, tmp_path / "export" / "model.safetensors")
    refused = run("run", f"teacher.path={tmp_path / 'export'}")
    assert (refused.code, "model.norm.weight holds numbers that are not finite" in refused.err) == (2, True), (
        refused.err
    )


def test_a_plan_counts_the_teacher(lost: Run, tiny_yaml: Path, teachers: dict) -> None:
    command = ("plan", tiny_yaml, "--set", "model.vocab_size=320", "--backend", "torch", "--json")
    alone, taught = (
        json.loads(lost(*command, "--device", "cpu", *more).out)
        for more in ((), ("--set", f"teacher.path={teachers['wide']}"))
    )
    held = open_checkpoint(sorted((teachers["wide"] / "checkpoints").glob("step-*"))[-1])
    assert taught["teacher_bytes"] == sum(array.nbytes for _, array in held.parameters())
    assert alone["teacher_bytes"] == 0
    room = str((taught["memory_bytes"]["total"] + taught["teacher_bytes"] // 2) / 2**30)
    short = lost(*command, "--device", "cpu", "--memory-gib", room, "--set", f"teacher.path={teachers['wide']}")
    assert (short.code, "of the weights are the teacher's" in short.out) == (2, True), short.out
