"""Figures that users compare: perplexity, bits per byte, the log's rows; and the budget's arithmetic."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lost.config import Config
from lost.errors import StorageError
from lost.evaluation.perplexity import Evaluation
from lost.planning.budget import budget, report
from lost.tracking import Tracker, Trackers
from lost.tracking.metrics import MetricsFile


def test_perplexity_and_bits_per_byte() -> None:
    result = Evaluation(nll=100 * math.log(8), tokens=100, batches=4, bytes=300)
    assert result.perplexity == pytest.approx(8)
    assert result.bits_per_byte == pytest.approx(1.0)
    assert result.lineage_perplexity == pytest.approx(8 ** (4 / 5))  # GaLore's counter starts at 1
    assert Evaluation(1.0, 1, 1).bits_per_byte is None


def test_trackers_whose_disk_is_full() -> None:
    """A run may go on without a row, where it is told so, but not begin beside rows of another life."""

    class Full(Tracker):
        def begin(self, step: int) -> None:
            raise StorageError("full")

        def step(self, row: dict) -> None:
            raise StorageError("full")

    told: list[StorageError] = []
    trackers = Trackers(Full(), refused=told.append)
    with pytest.raises(StorageError):
        trackers.begin(3)
    assert not told
    trackers.step({"step": 4})
    assert [str(error) for error in told] == ["full"]
    with pytest.raises(StorageError):
        Trackers(Full()).step({"step": 4})


def test_log_drops_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path)
    log.begin(0)
    for step in range(1, 6):
        log.row({"step": step, "loss": 0.1 + step})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 6, "lo')  # cut off by a crash
    log.begin(3)
    log.row({"step": 4, "loss": 9.25})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] == 9.25
    log.begin(0)
    assert path.read_text() == ""


def test_budget_by_hand(config: Callable[..., Config]) -> None:
    settings = config(projection={"kind": "dense"}, model={"num_key_value_heads": 4, "num_hidden_layers": 1})
    inside = 4 * 16 * 16 + 3 * 16 * 24
    counted = budget(settings)
    assert counted.projections == inside
    assert counted.embeddings == 2 * 19 * 16
    assert counted.parameters == inside + 2 * 19 * 16 + 3 * 16
    assert counted.flops_per_token == 6 * (inside + 19 * 16 + 2 * 8 * 16)
    assert counted.forward_flops_per_token == 2 * (inside + 19 * 16 + 2 * 8 * 16)
    assert counted.memory.moments == 2 * 4 * counted.parameters
    tied = budget(settings.replace("model", tie_word_embeddings=True))
    assert tied.parameters == counted.parameters - 19 * 16


def test_lost_layer_by_hand(config: Callable[..., Config]) -> None:
    settings = config(model={"num_key_value_heads": 4, "num_hidden_layers": 1})
    # rank 4; density .2 keeps 3 of 16 channels and 4 of 24
    attention = 4 * (4 * 16 + 16 * 7)
    mlp = 2 * (4 * 16 + 24 * 7) + (4 * 24 + 16 * 8)
    assert budget(settings).projections == attention + mlp
    answer = report(settings, "torch", "cpu")
    assert (
        answer["parameters"]["dense_equivalent"]
        == budget(
            config(projection={"kind": "dense"}, model={"num_key_value_heads": 4, "num_hidden_layers": 1})
        ).parameters
    )
    assert answer["memory_bytes"]["total"] == sum(v for k, v in answer["memory_bytes"].items() if k != "total")
