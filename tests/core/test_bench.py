"""Interleaved timing, and the ratios of `lost bench`."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from lost.bench.compare import flops_per_token
from lost.bench.options import as_kind
from lost.bench.timing import summarize, time_interleaved
from lost.bench.trial import tokens_per_second
from lost.config import Config, ProjectionSettings
from lost.engine import StepResult
from lost.model.load import load_config
from lost.planning.budget import budget
from lost.planning.peak_flops import peak_flops, tokens_at_peak
from lost.projections import projection


def test_every_round_has_every_way_once_in_a_new_order() -> None:
    calls: list[str] = []
    ways = {name: (lambda name=name: calls.append(name)) for name in "abcd"}
    times = time_interleaved(ways, rounds=6, warm_up=2)
    rounds = [tuple(calls[start : start + 4]) for start in range(0, len(calls), 4)]
    assert len(rounds) == 8
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len(set(rounds)) > 4
    assert {name: len(found) for name, found in times.items()} == dict.fromkeys(
        "abcd", 6
    )  # those of the warm-up left out


def test_summary() -> None:
    times = {"dense": [4.0, 8.0, 100.0], "cola": [1.0, 2.0, 3.0], "lost": [2.0, 4.0, 6.0]}
    assert summarize(times, "lost", calls=2) == {
        "seconds": {"median": 2.0, "p25": 1.5, "p75": 2.5},
        "ratio_to_dense": 0.5,
        "ratio_to_cola": 2.0,
    }
    assert summarize({"lost": [1.0]}, "lost")["ratio_to_dense"] is None


@pytest.mark.parametrize(
    ("name", "dtype", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989),
        ("NVIDIA H100 80GB HBM3", "tf32", 494.5),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA H100 NVL", "bfloat16", 835),
        ("NVIDIA H200", "bfloat16", 989),
        ("NVIDIA GH200 480GB", "bfloat16", 989),
        ("NVIDIA B200", "bfloat16", 2250),
        ("NVIDIA L40S", "bfloat16", 362),
        ("NVIDIA L4", "bfloat16", 121),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
        ("NVIDIA GeForce RTX 4090 D", "bfloat16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16", None),
        ("Tesla V100-SXM2-16GB", "float32", None),
    ],
)
def test_peaks(name: str, dtype: str, tera: float | None) -> None:
    assert peak_flops(name, dtype) == (tera and pytest.approx(tera * 1e12))


def test_utilization_is_of_the_models_own_flops_on_all_cards(config: Callable[..., Config]) -> None:
    settings = config(train={"dtype": "bfloat16"})
    found = tokens_at_peak(settings, "cuda:0", "NVIDIA H100 80GB HBM3", 8)
    assert found == pytest.approx(8 * 989e12 / budget(settings).flops_per_token)
    assert tokens_at_peak(settings, "cuda:0", "another card", 1) is None
    assert tokens_at_peak(settings, "cpu", "AMD A10-7850K", 1) is None  # no A10


def test_cola_has_an_activation_beside_layers_without_one() -> None:
    assert load_config("llama_60m").projection.activation == "none"
    linear, gelu = (load_config("llama_60m", [f"projection.activation={name}"]).projection for name in ("none", "gelu"))
    assert as_kind(linear, "cola") == {"kind": "cola", "activation": "silu"}
    assert as_kind(gelu, "cola") == {"kind": "cola"}
    assert as_kind(linear, "lost") == {"kind": "lost"}


@pytest.mark.parametrize(
    ("settings", "multiply_adds"),
    [
        ({"kind": "dense"}, 3 * 64 * 48),
        ({"kind": "lora"}, 2 * 64 * 48 + 3 * 8 * (64 + 48)),
        ({"kind": "lora", "bits": 4}, 2 * 64 * 48 + 3 * 8 * (64 + 48)),
        ({"kind": "lora_xs"}, 2 * (64 * 48 + 8 * (64 + 48)) + 3 * 8 * 8),
    ],
)
def test_a_frozen_weight_has_no_gradient(settings: dict, multiply_adds: int) -> None:
    """By hand: forward, gradient of the input, gradient of the weight; as `lost plan` counts them."""
    part = projection("layer", 64, 48, ProjectionSettings(rank=8, **settings))
    assert flops_per_token(part) == 2 * multiply_adds


@pytest.mark.parametrize("micro_batches", [1, 3, 16])
def test_a_trial_counts_the_update_once_a_step(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, micro_batches: int
) -> None:
    """A micro-batch takes 2 s and the update 5, whatever the length of the steps that were timed."""
    clock = [0.0]

    def step(batches: Sequence[object], predictions: int, lr: float) -> StepResult:
        clock[0] += 2 * len(batches) + 5
        assert predictions == len(batches) * tokens
        return StepResult(lambda: (0.0, 0.0))

    asked = config(train={"batch_size": 2 * micro_batches, "micro_batch_size": 2})
    tokens = 2 * asked.data.seq_len
    engine = SimpleNamespace(load=list, step=step)
    module = SimpleNamespace(create=lambda config, device: engine)
    monkeypatch.setattr("lost.bench.trial.backend_module", lambda name: module)
    monkeypatch.setattr("lost.bench.trial.time.perf_counter", lambda: clock[0])
    speed = tokens_per_second(asked, "torch", "cpu")
    assert speed == pytest.approx(micro_batches * tokens / (2 * micro_batches + 5))
