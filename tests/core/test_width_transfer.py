"""Rates and decays that follow from a narrower model's: numbers worked out by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lost.checkpoint.changes import fixed_differences
from lost.config import Config
from lost.model.parameters import parameter_table
from lost.optim import KINDS, optimizer_of
from lost.optim.muon import scale
from lost.optim.rates.groups import report

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": None}
TUNED = {"lr": 8e-3, "weight_decay": 0.1}


def groups(config: Callable[..., Config], optimizer: dict, projection: dict, model: dict) -> dict[str, tuple]:
    """Peak rate and decay by what a tensor is, of a model 64 wide."""
    made = config(model={**WIDE, **model}, projection=projection, optimizer={**TUNED, **optimizer})
    value = report(made)
    assert value["widening"] == (4 if "base_width" in optimizer else 1)
    return {what: (each["lr"], each["weight_decay"]) for each in value["groups"] for what in each["tensors"]}


STAYS, BARE = (8e-3, 0.1), (8e-3, 0.0)  # a matrix that keeps both; a vector, which has no decay
QUARTER, HALF = (2e-3, 0.2), (4e-3, 0.2)  # rate / 4 or / 2, decay x 2


@pytest.mark.parametrize(
    ("optimizer", "projection", "model", "expected"),
    [
        ({}, {"kind": "dense"}, {}, {"weight": QUARTER, "head": QUARTER, "embedding": STAYS, "norms": BARE}),
        ({}, {"learn_gamma": True}, {"attention_bias": True}, {"down": QUARTER, "up": QUARTER, "head": QUARTER,
         "embedding": STAYS, "norms": BARE, "gamma": BARE, "bias": BARE}),
        ({}, {"kind": "cola"}, {"tie_word_embeddings": True}, {"down": QUARTER, "up": QUARTER, "embedding": QUARTER,
         "norms": BARE}),
        ({"head_lr": 4e-3, "embedding_lr": 1e-3}, {"kind": "sltrain"}, {}, {"down": QUARTER, "up": QUARTER,
         "values": (2e-3, 0.0), "head": (1e-3, 0.2), "embedding": (1e-3, 0.1), "norms": BARE}),
        ({"name": "muon"}, {}, {}, {"down": HALF, "up": HALF, "head": QUARTER, "embedding": STAYS, "norms": BARE}),
        ({"name": "muon"}, {"kind": "sltrain"}, {}, {"down": HALF, "up": HALF, "values": (2e-3, 0.0), "head": QUARTER,
         "embedding": STAYS, "norms": BARE}),
        *(({"name": name, "scale": scale}, {}, {}, {"down": STAYS, "up": STAYS, "head": QUARTER, "embedding": STAYS,
         "norms": BARE}) for name, scale in (("muon", "spectral"), ("muon", "original"), ("spectron", "spectral"))),
    ],
)  # fmt: skip
def test_worked_out(
    config: Callable[..., Config], optimizer: dict, projection: dict, model: dict, expected: dict[str, tuple]
) -> None:
    found = groups(config, {**optimizer, "base_width": 16}, projection, model)
    assert found.keys() == expected.keys()
    for what, pair in expected.items():
        assert found[what] == pytest.approx(pair), what


@pytest.mark.parametrize("name", KINDS)
def test_as_wide_as_the_tuned_model_nothing_changes(config: Callable[..., Config], name: str) -> None:
    alone, same = (config(optimizer={"name": name, **width}) for width in ({}, {"base_width": 16}))
    for row in parameter_table(same).values():
        assert optimizer_of(same).group(row) == optimizer_of(alone).group(row)


@pytest.mark.parametrize("name", ["match_rms_adamw", "spectral", "original"])
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (96, 64), (16, 64)])
def test_muon_moves_outputs_as_far_at_every_width(
    config: Callable[..., Config], name: str, rows: int, columns: int
) -> None:
    """An orthogonal update's singular values, as a share of (rows/columns)^(1/2), stay where both sides widen."""
    moved = []
    for width in (16, 32, 64, 256):
        made = config(
            model={**WIDE, "hidden_size": width},
            projection={"kind": "dense"},
            optimizer={"name": "muon", "scale": name, "base_width": 16},
        )
        row = parameter_table(made)["model.layers.0.mlp.up_proj.weight"]
        wider = width // 16
        moved.append(optimizer_of(made).group(row).rate * scale(name, wider * rows, wider * columns))
    assert moved == pytest.approx([moved[0]] * 4)


def test_adamw_moves_outputs_as_far_at_every_width(config: Callable[..., Config]) -> None:
    """What an update of W with all gradients alike adds to W x, x of entries of 1."""
    moved = []
    for width in (16, 64):
        made = config(model={**WIDE, "hidden_size": width}, projection={"kind": "dense"}, optimizer={"base_width": 16})
        optimizer, row = optimizer_of(made), parameter_table(made)["model.layers.0.mlp.up_proj.weight"]
        state = {name: np.zeros(row.shape) for name in optimizer.arrays}
        after = optimizer.update(row, np.zeros(row.shape), np.ones(row.shape), state, 1e-2, 1)
        moved.append((after @ np.ones(width))[0])
    assert moved == pytest.approx([-0.16, -0.16])


def test_a_run_keeps_it(config: Callable[..., Config]) -> None:
    old, new = config(optimizer={"base_width": 8}), config()
    assert fixed_differences(old, new, 1) == {"optimizer.base_width": "optimizer.base_width = None, was 8"}


def test_plan_shows_them(lost: Callable, tiny_yaml: Path) -> None:
    command = ("plan", tiny_yaml, "--device", "cpu", "--set", "model.vocab_size=300", "--set", "optimizer.lr=8e-3")
    shown = lost(*command, "--set", "optimizer.base_width=8").out
    assert "4 times as wide as 8" in shown
    told = [line.split()[-2] for line in shown.splitlines() if line.startswith(("embedding, norms", "down, up, head"))]
    assert told == ["0.008", "0.002"]
    assert "times as wide" not in lost(*command).out
    rates = json.loads(lost(*command, "--set", "optimizer.base_width=8", "--json").out)["rates"]
    assert (rates["widening"], {each["lr"] for each in rates["groups"]}) == (4, {8e-3, 2e-3})


@pytest.mark.parametrize("value", ["0", "-8", "12.5", "true", "wide"])
def test_no_width(lost: Callable, tiny_yaml: Path, value: str) -> None:
    answer = lost("plan", tiny_yaml, "--set", "model.vocab_size=300", "--set", f"optimizer.base_width={value}")
    assert answer.code == 2
    assert "optimizer.base_width" in answer.err
