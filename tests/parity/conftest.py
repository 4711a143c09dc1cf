"""A trained model and its export, made once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lost.checkpoint import Checkpoint, open_checkpoint
from lost.data.dataset import Dataset


@pytest.fixture(scope="session")
def export_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture
def exported(lost: Callable, tiny_yaml: Path, prepared: Dataset, export_folder: Path) -> tuple[Checkpoint, Path]:
    """A run of the command line, and its export."""
    run, out = export_folder / "run", export_folder / "out"
    if not out.exists():
        sizes = ["model.hidden_size=64", "model.tie_word_embeddings=true", "projection.rank=16", "projection.align=32"]
        options = [word for each in (*sizes, "schedule.steps=60") for word in ("--set", each)]
        done = lost("train", tiny_yaml, "--data", prepared.path, "--out", run, *options)
        assert done.code == 0, done.err
        done = lost("convert", run, out, "--to", "hf", "--json")
        assert done.code == 0, done.err
        answer = json.loads(done.out)
        assert [each["reader"].split()[0] for each in answer["checks"]] == ["transformers", "mlx-lm"]
        assert all(each["difference"] < 1e-5 for each in answer["checks"])
        assert (answer["to"], answer["step"], answer["checked"], answer["needs_code"]) == ("hf", 60, True, True)
    return open_checkpoint(run / "checkpoints" / "step-00000060"), out
