"""Sizes of products that CUDA multiplies fast: what ships has them, and whoever hasn't is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lost.data.dataset import Dataset
from lost.model.load import load_config, shipped
from lost.planning.alignment import product_sizes, unaligned
from lost.planning.vocabulary import with_vocabulary
from lost.projections import KINDS

PAPERS = ["model.intermediate_size=5461"]  # of LLaMA 1B


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", shipped())
def test_what_ships_is_aligned(name: str, kind: str) -> None:
    config, _ = with_vocabulary(load_config(name, [f"projection.kind={kind}"]))
    sizes = {size for sides in product_sizes(config) for size in sides}
    assert config.model.intermediate_size in sizes
    assert {size for size in sizes if size % 8} == set()
    assert unaligned(config, "cuda:0") == ""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("lost", "72 of 337 weights (37% of their multiply-adds)"),
        ("dense", "72 of 169 weights (63% of their multiply-adds)"),
        ("sltrain", "72 of 169 weights (63% of their multiply-adds)"),
    ],
)
def test_what_is_said_of_the_papers_size(kind: str, said: str) -> None:
    """By hand: gate, up and down have one such matrix each of 24 layers, 3 x 2048 x 5461 dense beside 4 x 2048^2."""
    config = load_config("llama_1b_paper", [*PAPERS, f"projection.kind={kind}"])
    warning = unaligned(config, "cuda:1")
    assert said in warning
    assert "aren't multiples of 8 (5461), for which CUDA's products in bfloat16 are slow" in warning
    assert "--set model.intermediate_size=5464" in warning
    assert unaligned(config, "cpu") == unaligned(config, "mps") == ""


def test_float32_needs_multiples_of_4() -> None:
    sizes = ["model.intermediate_size=5460", "train.dtype="]
    assert unaligned(load_config("llama_1b_paper", [sizes[0], f"{sizes[1]}float32"]), "cuda:0") == ""
    assert "(5460)" in unaligned(load_config("llama_1b_paper", [sizes[0], f"{sizes[1]}bfloat16"]), "cuda:0")


def test_words_of_few_bits_are_no_products() -> None:
    """They, their scales and their biases are unpacked to the matrix, whose sides count."""
    adapted = ("projection.kind=lora", "projection.rank=8", "model.intermediate_size=1408", "model.vocab_size=32000")
    whole, packed = (load_config("llama_60m", [*adapted, f"projection.bits={bits}"]) for bits in ("null", 4))
    assert [*product_sizes(packed)] == [*product_sizes(whole)]
    assert unaligned(packed, "cuda:0") == unaligned(whole, "cuda:0") == ""


def test_plans_and_new_runs_say_it(
    lost: Callable[..., Any], tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not again when a run goes on, which can't change."""
    assert (
        "--set model.intermediate_size=5464"
        in lost("plan", "llama_1b_paper", "--memory-gib", 80, "--backend", "torch", "--set", *PAPERS).err
    )
    monkeypatch.setattr("lost.training.begin.ready.unaligned", lambda config, device: f"slow sizes on {device}")
    train = (
        "train",
        tiny_yaml,
        "--data",
        prepared.path,
        "--out",
        tmp_path / "run",
        "--device",
        "cpu",
        "--backend",
        "torch",
    )
    sets = ("--set", "schedule.steps=2")
    assert "slow sizes on cpu" in lost(*train, *sets, "--dry-run").out
    assert "slow sizes on cpu" in lost(*train, *sets).out
    assert "slow sizes" not in lost(*train, *sets).out
