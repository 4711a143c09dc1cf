"""Inspections of a model in training: numbers as numpy has them, and a run that they leave as it is."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lost.checkpoint import checkpoint_path, open_checkpoint
from lost.data.dataset import VALID, Dataset
from lost.engine import BACKENDS
from lost.model import reference
from lost.model.parameters import EMBEDDING, projections


def rows(run: Path, key: str) -> list[dict]:
    return [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if key in row]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["lost", "sltrain", "dense"])
def test_what_is_seen_in_a_run_that_stays_as_it_is(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, backend: str, kind: str
) -> None:
    command = ("train", tiny_yaml, "--data", prepared.path, "--device", "cpu", "--backend", backend, "--set",
               f"projection.kind={kind}", "--set", "schedule.steps=6", "--out")  # fmt: skip
    assert lost(*command, tmp_path / "plain").code == 0
    for stop in (2, 6):  # at a step that is inspected, and on from there
        every = ("--set", "train.inspect_every=2", "--set", f"train.stop_after={stop}")
        done = lost(*command, tmp_path / "run", *every)
        assert done.code == 0, done.err
    ends = [open_checkpoint(checkpoint_path(tmp_path / name / "checkpoints", 6)) for name in ("plain", "run")]
    states = [{name: array.tobytes() for name, array in (*end.parameters(), *end.moments())} for end in ends]
    assert states[0] == states[1]
    losses = [[row["loss"] for row in rows(tmp_path / name, "loss")] for name in ("plain", "run")]
    assert losses[0] == losses[1]
    assert lost("verify", tmp_path / "run").code == 0

    found = rows(tmp_path / "run", "activation_rms")
    assert [row["step"] for row in found] == [2, 4, 6]
    config, weights = ends[1].config, {name: array.astype(np.float64) for name, array in ends[1].parameters()}
    weights = {name: array.astype(np.int32) if name.endswith(("channels", "indices")) else array
               for name, array in weights.items()}  # fmt: skip
    tokens = prepared.split(VALID).read(0, config.data.seq_len)[None]
    x, sizes = weights[EMBEDDING][tokens], []
    halves = reference.Model(config).halves
    for attention, feed_forward in zip(halves[::2], halves[1::2], strict=True):
        x = feed_forward(weights, attention(weights, x))
        sizes.append(np.sqrt((x**2).mean()))
    assert list(found[-1]["activation_rms"].values()) == pytest.approx(sizes, rel=1e-5)
    assert found[-1]["largest_logit"] == pytest.approx(reference.logits(config, weights, tokens).max(), rel=1e-5)
    for each in projections(config):
        merged = each.merged({suffix: weights[f"{each.name}.{suffix}"] for suffix in each.tensors()})
        values = np.linalg.svd(merged, compute_uv=False)
        shares = (values**2 / (values**2).sum())[values > 1e-9 * values[0]]
        assert found[-1]["spectral_norm"][each.name] == pytest.approx(values[0], rel=1e-6)
        assert found[-1]["effective_rank"][each.name] == pytest.approx(np.exp(-shares @ np.log(shares)), rel=1e-6)
    name, largest = max(found[-1]["spectral_norm"].items(), key=lambda each: each[1])
    assert f"largest singular value {largest:.2f} ({name.removeprefix('model.layers.')})" in done.out
