"""A run with a teacher by two processes is that by one."""

import json
from pathlib import Path

import numpy as np
from processes import run_python, torchrun

from lost.checkpoint import TrainState, checkpoint_path, open_checkpoint, write
from lost.data.dataset import Dataset
from lost.model.init import initial_values
from lost.model.load import load_config


def rows(run: Path) -> list[dict]:
    return [row for line in (run / "metrics.jsonl").read_text().splitlines() if "loss" in (row := json.loads(line))]


def test_two_workers_learn_from_a_teacher_as_one(prepared: Dataset, tiny_yaml: Path, tmp_path: Path) -> None:
    """Each of them holds all of it; their halves of a batch differ in what they diverge by."""
    wide = (
        "projection.kind=dense",
        "model.hidden_size=24",
        "model.num_attention_heads=2",
        "model.num_key_value_heads=1",
    )
    config = load_config(tiny_yaml, ["model.vocab_size=320", "model.initializer_range=0.5", *wide])
    teacher = write(checkpoint_path(tmp_path / "teacher" / "checkpoints", 0), initial_values(config), (), config,
                    TrainState(data=prepared.fingerprint), prepared.tokenizer).path  # fmt: skip
    sets = (f"teacher.path={teacher}", "teacher.temperature=2", "train.log_every=1", "schedule.steps=6")

    def command(run: str) -> list[str]:
        places = ("--data", str(prepared.path), "--out", str(tmp_path / run), "--backend", "torch", "--device", "cpu")
        return ["-m", "lost", "train", str(tiny_yaml), *places, *sets]

    run_python(*command("one"), check=True)
    done = torchrun(2, *command("two"))
    assert "done at step 6" in done.stdout, done.stderr
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert one[0]["divergence"] > 0.05
    for key in ("loss", "divergence"):
        np.testing.assert_allclose([row[key] for row in two], [row[key] for row in one], rtol=0, atol=1e-5)
    ends = [open_checkpoint(checkpoint_path(tmp_path / run / "checkpoints", 6)).progress for run in ("one", "two")]
    assert ends[1].teacher == ends[0].teacher is not None
