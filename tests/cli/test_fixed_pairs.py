"""Adapters with a fixed pair by the commands a user types: what is trained is between its sides."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from adaptations import RANK, arrays, at, run_data, scores, scores_of_peft
from safetensors.numpy import load_file

from lost.data.dataset import Dataset
from lost.data.mixture import training_stream
from lost.engine import BACKENDS, create_engine
from lost.model.adapted import base_config
from lost.training.origin import calibration

SIZES = {"lora_xs": RANK**2, "lora_sb": RANK**2, "svfit": RANK}
"""What is trained in a layer."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", SIZES)
def test_begins_as_the_base_and_moves_the_cores_alone(
    adapt: Callable, bases: dict[str, Path], logits: Callable, kind: str, backend: str
) -> None:
    run = adapt(kind, "run", 2, base="rich", backend=backend)
    was, begun, moved = scores(at(bases["rich"], 2), backend, logits), at(run, 0), at(run, 2)
    assert np.array_equal(scores(begun, backend, logits), was)
    before, after = arrays(begun), arrays(moved)
    cores = {name for name in before if name.endswith(".core")}
    assert {name for name in before if after[name] != before[name]} == cores
    assert len(cores) == 2 * 7
    assert sum(len(before[name]) for name in cores) == 4 * 2 * 7 * SIZES[kind]
    source = arrays(at(bases["rich"], 2))
    assert all(before[name] == each for name, each in source.items() if name in before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_lora_sb_spans_the_first_step_of_training_all(
    adapt: Callable, bases: dict[str, Path], prepared: Dataset, backend: str
) -> None:
    """AdamW's: the sign of the gradient, here by autograd, of what the run begins by."""
    begun = at(adapt("lora_sb", "run", 1, backend=backend), 0)
    engine, length = create_engine(base_config(begun.config), "torch", "cpu"), begun.config.data.seq_len
    engine.load(at(bases["dense"], 2).parameters())
    stream = training_stream(prepared, length, begun.config.train.seed)
    batch = stream.batch(0, calibration.TOKENS // length)
    engine.model(*engine._on_device(batch)).backward()
    values = dict(begun.parameters())
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        sign = torch.sign(engine.model.get_parameter(f"{name}.weight").grad).numpy().astype(np.float64)
        down, up = (values[f"{name}.{side}"].astype(np.float64) for side in ("down", "up"))
        for side in (down @ down.T, up.T @ up):
            np.testing.assert_allclose(side, np.eye(RANK), atol=1e-5)
        reached = np.diag(up.T @ sign @ down.T)
        best = np.linalg.svd(sign)[1][:RANK]
        np.testing.assert_allclose(reached, best, rtol=0.02)  # near zero, a gradient's sign is rounding's


def test_svfit_trains_the_singular_values(adapt: Callable, bases: dict[str, Path]) -> None:
    run = adapt("svfit", "run", 2)
    base, values = (dict(each.parameters()) for each in (at(bases["dense"], 2), at(run, 2)))
    name = "model.layers.1.mlp.up_proj"
    left, singular, right = np.linalg.svd(base[f"{name}.weight"].astype(np.float64), full_matrices=False)
    singular[:RANK] += values[f"{name}.core"]
    found = values[f"{name}.weight"] + (values[f"{name}.up"] * values[f"{name}.core"]) @ values[f"{name}.down"]
    np.testing.assert_allclose(found, (left * singular) @ right, atol=1e-6)


@pytest.mark.parametrize("kind", ["lora_sb", "svfit"])
def test_resumed_to_the_bit_and_moved_to_the_other_backend_and_back(adapt: Callable, lost: Callable, kind: str) -> None:
    straight = adapt(kind, "straight", 4)
    for stop in (2, 4):
        resumed = adapt(kind, "resumed", stop)
    assert arrays(at(resumed, 4)) == arrays(at(straight, 4))
    for stop, backend in ((1, "torch"), (3, "mlx"), (4, "torch")):
        moved = adapt(kind, "moved", stop, backend=backend)
    own, other = (dict(at(run, 4).parameters()) for run in (straight, moved))
    for name, array in own.items():
        np.testing.assert_allclose(other[name], array, atol=1e-4 if name.endswith(".core") else 0, err_msg=name)
    assert lost("verify", moved).code == 0


@pytest.mark.parametrize("kind", ["lora_sb", "svfit"])
def test_merged_for_others_and_taken_out_for_peft(
    adapt: Callable, bases: dict[str, Path], lost: Callable, logits: Callable, tmp_path: Path, kind: str
) -> None:
    """PEFT's LoRA holds it exactly: `down` as it is, and `up` times what is between."""
    run = adapt(kind, "run", 3)
    answer = lost("convert", run, tmp_path / "hf", "--to", "hf", "--json")
    assert json.loads(answer.out)["checked"], answer.err
    own, merged = (lost("eval", each, "--data", run_data(run), "--json") for each in (run, tmp_path / "hf"))
    assert json.loads(merged.out)["loss"] == pytest.approx(json.loads(own.out)["loss"], abs=1e-5)
    assert lost("convert", bases["dense"], tmp_path / "base", "--to", "hf").code == 0
    answer = lost("convert", run, tmp_path / "adapter", "--to", "peft", "--json")
    assert answer.code == 0, answer.err
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert described["r"] == described["lora_alpha"] == RANK
    found = scores_of_peft(tmp_path / "base", tmp_path / "adapter")
    np.testing.assert_allclose(found, scores(at(run, 3), "torch", logits), atol=2e-5)
    assert np.abs(found - scores(at(bases["dense"], 2), "torch", logits)).max() > 1e-4


@pytest.mark.parametrize(("asked", "dtype"), [((), "float32"), (("--dtype", "bfloat16"), "bfloat16")])
def test_products_are_written_in_float32_unless_a_type_is_asked_for(
    adapt: Callable, lost: Callable, tmp_path: Path, asked: tuple[str, ...], dtype: str
) -> None:
    """Of a run in bfloat16, which holds both factors of `lora_B`, but not their product."""
    run = adapt("lora_xs", "run", 3, "train.dtype=bfloat16", "train.param_dtype=bfloat16", "optimizer.lr=0.5")
    answer = lost("convert", run, tmp_path / "adapter", "--to", "peft", *asked, "--json")
    assert answer.code == 0, answer.err
    value = json.loads(answer.out)
    assert value["dtype"] == dtype
    assert (value["difference"] < 1e-4) is (dtype == "float32")
    written = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {each.dtype.name for each in written.values()} == {dtype}


def test_a_rank_that_a_layer_has_not_is_refused(
    lost: Callable, bases: dict[str, Path], prepared: Dataset, tmp_path: Path
) -> None:
    words = ("--set", "projection.kind=svfit", "--set", "projection.rank=33")
    answer = lost("train", "--init-from", bases["dense"], "--data", prepared.path, "--out", tmp_path / "run", *words)
    assert answer.code == 2
    assert "projection.rank = 33 is larger than" in " ".join(answer.err.split())
    assert not (tmp_path / "run").exists()
