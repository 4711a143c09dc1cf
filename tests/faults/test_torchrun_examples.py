"""Fine-tuning by two processes is that by one, although what they have to learn is unevenly spread."""

import json
from pathlib import Path

import numpy as np
from processes import run_python, torchrun

from lost.checkpoint import TrainState, checkpoint_path, open_checkpoint, write
from lost.config import Config
from lost.data.dataset import TRAIN, Dataset
from lost.data.loader import TrainingStream
from lost.model.init import initial_values
from lost.model.load import load_config
from lost.prepare.examples import prepare_examples

NEW = """\
data: {seq_len: 16}
train: {batch_size: 4, log_every: 1, eval_every: 0, save_every: 0}
optimizer: {lr: 1e-2}
schedule: {steps: 10, warmup_steps: 2}
"""


def rows(run: Path) -> list[dict]:
    return [row for line in (run / "metrics.jsonl").read_text().splitlines() if "loss" in (row := json.loads(line))]


def test_two_workers_tune_as_one(prepared: Dataset, tiny_yaml: Path, tmp_path: Path) -> None:
    config: Config = load_config(tiny_yaml, ["model.vocab_size=320"])
    base = write(checkpoint_path(tmp_path / "base" / "checkpoints", 0), initial_values(config), (), config,
                 TrainState(data=prepared.fingerprint), prepared.tokenizer).path  # fmt: skip
    lines = [
        json.dumps({"prompt": "the rank of " * (number % 3), "completion": " weight" * (1 + number % 5)})
        for number in range(90)
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    (tmp_path / "new.yaml").write_text(NEW)
    prepare_examples([tmp_path / "x.jsonl"], tmp_path / "data", prepared.tokenizer, 0.1)
    stream = TrainingStream(Dataset(tmp_path / "data").split(TRAIN), 16, 0)
    halves = [[stream.predictions(first, 2) for first in (start, start + 2)] for start in range(0, 40, 4)]
    assert sum(first != second for first, second in halves) > 5

    def command(run: str) -> list[str]:
        places = ("--init-from", str(base), "--data", str(tmp_path / "data"), "--out", str(tmp_path / run))
        return ["-m", "lost", "train", str(tmp_path / "new.yaml"), *places, "--backend", "torch", "--device", "cpu"]

    run_python(*command("one"), check=True)
    done = torchrun(2, *command("two"))
    assert "done at step 10" in done.stdout, done.stderr
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["targets"] for row in two] == [row["targets"] for row in one] == [sum(both) for both in halves]
    np.testing.assert_allclose([row["loss"] for row in two], [row["loss"] for row in one], rtol=0, atol=1e-6)
    ends = [open_checkpoint(checkpoint_path(tmp_path / run / "checkpoints", 10)).progress for run in ("one", "two")]
    assert ends[1].origin == ends[0].origin is not None
    assert ends[1].validation_loss is not None
    np.testing.assert_allclose(ends[1].validation_loss, ends[0].validation_loss, rtol=0, atol=1e-6)
