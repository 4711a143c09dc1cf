"""Frozen weights in 8 and 4 bits: one form in both backends, as MLX has it, trained beside, moved and exported."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from adaptations import arrays, at, run_data, scores

from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.engine import BACKENDS, create_engine
from lost.method.quantized import GROUP, quantized, unpacked
from lost.model.adapted import unquantized

RANK = 4


@pytest.mark.parametrize("bits", [4, 8])
def test_the_form_is_that_of_mlx(bits: int) -> None:
    mx = pytest.importorskip("mlx.core")
    weight = np.random.default_rng(0).normal(0, 1, (6, 192))
    weight[1, :GROUP] = 0.75  # a group of one value
    words, scales, biases = quantized(weight, bits)
    found = unpacked(words, scales, biases, bits)
    parts = (mx.array(words.view(np.uint32)), *(mx.array(each.astype(np.float32)) for each in (scales, biases)))
    np.testing.assert_allclose(np.array(mx.dequantize(*parts, GROUP, bits)), found, atol=1e-6)
    assert [each.shape for each in mx.quantize(mx.array(weight.astype(np.float32)), GROUP, bits)] == [
        each.shape for each in (words, scales, biases)
    ]
    error = np.abs(found - weight).reshape(*scales.shape, -1).max(axis=-1)
    spread = np.ptp(weight.reshape(*scales.shape, -1), axis=-1)
    assert (error <= 0.5 * spread / (2**bits - 1) + 2**-8 * np.abs(weight).max()).all()  # rounded to bfloat16's 8 bits
    assert error[1, 0] == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "bits"), [("lora", 4), ("pissa", 8), ("svfit", 4)])
def test_computes_and_trains_as_the_unpacked_weights_do(
    adapt: Callable, logits: Callable, kind: str, bits: int, backend: str
) -> None:
    begun = at(adapt(kind, "run", 1, f"projection.bits={bits}", base="wide", backend=backend), 0)
    values, whole = dict(begun.parameters()), {}
    for name, each in values.items():
        if f"{name.removesuffix('.weight')}.scales" in values:
            assert each.dtype == np.int32
            stem = name.removesuffix(".weight")
            whole[name] = unpacked(each, values[f"{stem}.scales"], values[f"{stem}.biases"], bits)
        elif not name.endswith((".scales", ".biases")):
            whole[name] = each
    tokens = np.random.default_rng(1).integers(0, 320, (2, 9)).astype(np.int32)
    found = []
    for config, held in ((begun.config, values), (unquantized(begun.config), whole)):
        engine = create_engine(config, backend, "cpu")
        engine.load(held.items())
        batch, shown = Batch(tokens), logits(engine, tokens)
        engine.step([batch], batch.predictions, 1e-3).wait()
        found.append((shown, dict(engine.optimizer_state())))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-4)
    for name, moment in found[1][1].items():
        assert np.linalg.norm(found[0][1][name] - moment) <= 1e-4 * np.linalg.norm(moment), name


def test_resumed_to_the_bit_and_moved_to_the_other_backend_and_back(adapt: Callable, lost: Callable) -> None:
    sets = ("projection.bits=4", "train.frozen_dtype=bfloat16")
    straight = adapt("lora", "straight", 4, *sets, base="wide")
    for stop in (2, 4):
        resumed = adapt("lora", "resumed", stop, *sets, base="wide")
    assert arrays(at(resumed, 4)) == arrays(at(straight, 4))
    for stop, backend in ((1, "torch"), (3, "mlx"), (4, "torch")):
        moved = adapt("lora", "moved", stop, *sets, base="wide", backend=backend)
    own, other = (dict(at(run, 4).parameters()) for run in (straight, moved))
    for name, array in own.items():
        allowed = 1e-4 if name.endswith((".down", ".up")) else 0
        np.testing.assert_allclose(other[name].astype(np.float64), array.astype(np.float64), atol=allowed, err_msg=name)
    assert lost("verify", moved).code == 0


def test_merged_for_others_and_taken_out_for_peft(
    adapt: Callable, bases: dict[str, Path], lost: Callable, logits: Callable, tmp_path: Path
) -> None:
    run = adapt("lora", "run", 2, "projection.bits=8", base="wide")
    was = scores(at(bases["wide"], 2), "torch", logits)
    assert 0 < np.abs(scores(at(run, 0), "torch", logits) - was).max() < 0.05  # rounding to 8 bits
    answer = lost("convert", run, tmp_path / "hf", "--to", "hf", "--json")
    assert json.loads(answer.out)["checked"], answer.err
    own, merged = (lost("eval", each, "--data", run_data(run), "--json") for each in (run, tmp_path / "hf"))
    assert json.loads(merged.out)["loss"] == pytest.approx(json.loads(own.out)["loss"], abs=1e-5)
    answer = lost("convert", run, tmp_path / "adapter", "--to", "peft", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["difference"] < 1e-4


def test_counted_as_they_are(lost: Callable, tiny_yaml: Path) -> None:
    sizes = ("model.hidden_size=64", "model.intermediate_size=128", "model.vocab_size=320", "projection.kind=lora")
    plain, packed = (
        json.loads(
            lost("plan", tiny_yaml, *(word for each in (*sizes, *sets) for word in ("--set", each)), "--json").out
        )
        for sets in (["train.frozen_dtype=bfloat16"], ["train.frozen_dtype=bfloat16", "projection.bits=4"])
    )
    entries = 2 * (4 * 64 * 64 + 3 * 64 * 128)  # blocks, matrices
    assert packed["parameters"] == plain["parameters"]
    assert packed["flops_per_token"] == plain["flops_per_token"]
    saved = plain["memory_bytes"]["weights"] - packed["memory_bytes"]["weights"]
    assert saved == 2 * entries - entries // 2 - 2 * 2 * entries // GROUP


@pytest.mark.parametrize("bits", ["null", "4"])
def test_inspected_with_as_many_parameters_as_were_planned(adapt: Callable, lost: Callable, bits: str) -> None:
    """Words of few bits are of as many entries as their weight has, and scales are no parameters."""
    run = adapt("lora", "run", 1, f"projection.bits={bits}", base="wide")
    shown, planned = (json.loads(lost(*command, "--json").out) for command in
                      (("inspect", run), ("plan", run / "config.yaml", "--data", run_data(run))))  # fmt: skip
    assert shown["parameters"] == planned["parameters"]["total"]


def test_refused(adapt: Callable, bases: dict[str, Path], lost: Callable, prepared: Dataset, tmp_path: Path) -> None:
    for bits, expected in ((4, "has 32 inputs, and each 64 have a scale"), (3, "projection.bits = 3")):
        words = ("--set", "projection.kind=lora", "--set", "projection.rank=4", "--set", f"projection.bits={bits}")
        answer = lost("train", "--init-from", bases["dense"], "--data", prepared.path, "--out", tmp_path / "x", *words)
        assert answer.code == 2
        assert expected in " ".join(answer.err.split())
        assert not (tmp_path / "x").exists()
    alone = lost("train", "--init-from", bases["dense"], "--data", prepared.path, "--out", tmp_path / "x",
                 "--set", "projection.kind=dense", "--set", "projection.bits=4")  # fmt: skip
    assert (alone.code, "no layer adapts a frozen weight" in " ".join(alone.err.split())) == (2, True), alone.err
    run = adapt("pissa", "run", 1, "projection.bits=8", base="wide")
    answer = lost("convert", run, tmp_path / "adapter", "--to", "peft")
    assert answer.code == 2
    assert "rounded to few bits" in " ".join(answer.err.split())
