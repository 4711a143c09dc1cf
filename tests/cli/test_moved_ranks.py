"""Ranks that EVA moves between layers: by what inputs' directions explain, kept by a run and by what is made of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from adaptations import RANK, arrays, at, scores, scores_of_peft

from lost.config import Config
from lost.data.dataset import Dataset
from lost.model.adapted import adapters
from lost.reshape.adapter_ranks import unmoved, with_ranks

RHO = "projection.rho=2"


def test_directions_that_explain_most_of_their_layer_are_taken(config: Callable[..., Config]) -> None:
    """By hand: of each block, one layer reads few directions, and others all alike."""
    settings = config(projection={"kind": "eva", "rank": 2, "alpha": 6, "rho": 1.5, "overrides": {}})
    asked: list[list[str]] = []

    def measure(what: str, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        assert what == "inputs"
        asked.append(list(names))
        widths = {each.name: each.in_features for each in adapters(settings)}
        few = {name: np.concatenate([[5.0, 4.0, 3.0, 2.0], np.zeros(widths[name] - 4)]) for name in names}
        return {name: np.diag(few[name] if "q_proj" in name else np.ones(widths[name])) for name in names}

    assert len(unmoved(settings)) == 14
    moved = with_ranks(settings, measure)
    assert unmoved(moved) == []
    assert [len(names) for names in asked] == [7, 7]  # a block at a time
    found = {each.name: each.settings for each in adapters(moved)}
    assert sum(each.rank for each in found.values()) == 2 * 14
    assert all(found[f"model.layers.{n}.self_attn.q_proj"].rank == 3 for n in range(2))  # 1.5 x 2, though 4 explain
    assert {each.alpha / each.rank for each in found.values()} == {3.0}
    assert len(found) < 14  # of the others, those whose inputs have more directions have none


def test_a_run_keeps_its_ranks(
    adapt: Callable, bases: dict[str, Path], lost: Callable, logits: Callable, tmp_path: Path
) -> None:
    """On resuming, by the same command; and in PEFT, by its own code."""
    straight = adapt("eva", "straight", 3, RHO)
    for stop in (1, 3):
        resumed = adapt("eva", "resumed", stop, RHO)
    assert arrays(at(resumed, 3)) == arrays(at(straight, 3))
    begun, last = at(resumed, 0), at(resumed, 3)
    assert np.array_equal(scores(begun, "torch", logits), scores(at(bases["dense"], 2), "torch", logits))
    ranks = {each.name: each.settings.rank for each in adapters(last.config)}
    assert sum(ranks.values()) == RANK * 14
    assert len(set(ranks.values())) > 1
    assert max(ranks.values()) <= 2 * RANK
    values = dict(last.parameters())
    assert {name: len(values[f"{name}.down"]) for name in ranks} == ranks

    assert lost("convert", bases["dense"], tmp_path / "base", "--to", "hf").code == 0
    answer = lost("convert", resumed, tmp_path / "adapter", "--to", "peft", "--json")
    assert answer.code == 0, answer.err
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    usual = described["r"], described["lora_alpha"]
    written = {
        name: (described["rank_pattern"].get(name, usual[0]), described["alpha_pattern"].get(name, usual[1]))
        for name in described["target_modules"]
    }
    assert written == {name: (rank, 16 / RANK * rank) for name, rank in ranks.items()}
    found = scores_of_peft(tmp_path / "base", tmp_path / "adapter")
    np.testing.assert_allclose(found, scores(last, "torch", logits), atol=2e-5)


def test_layers_keep_their_other_settings(config: Callable[..., Config]) -> None:
    """Of two layers by pattern and by name; whatever matched last before, what was measured does now."""
    one, few = "model.layers.1.mlp.down_proj", {"bits": 8, "init_std": 0.5}
    overrides = {one: {"bits": None, "rank": 4}, "*.q_proj": few, "*.mlp.*": {"bits": None}, "*.1.mlp.*": {"alpha": 8}}
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    given = {"kind": "eva", "rank": 2, "alpha": 6, "rho": 2, "bits": 4, "overrides": overrides}
    settings = config(model=sizes, projection=given)
    before = {each.name: each.settings for each in adapters(settings)}
    widths = {each.name: each.in_features for each in adapters(settings)}
    moved = with_ranks(settings, lambda what, names: {name: np.diag(0.5 ** np.arange(widths[name])) for name in names})
    assert unmoved(moved) == []
    found = {each.name: each.settings for each in adapters(moved)}
    assert sum(each.rank for each in found.values()) == sum(each.rank for each in before.values())
    for name, each in found.items():
        was = before[name]
        assert each == was.model_copy(update={"rank": each.rank, "alpha": was.alpha / was.rank * each.rank})
    assert {each.bits for each in found.values()} == {None, 4, 8}
    assert found["model.layers.0.self_attn.q_proj"].init_std == 0.5
    assert found[one].alpha == 4 * found[one].rank  # by a pattern that comes after it


@pytest.mark.parametrize(
    "overrides",
    ["{'model.layers.0.mlp.up_proj': {rank: 2, alpha: 8}}",
     "{'*.mlp.*': {bits: 8}, 'model.layers.0.mlp.up_proj': {rank: 2, bits: null}, '*.[qk]_proj': {kind: dense}}"],
)  # fmt: skip
def test_a_run_with_layers_by_name_is_resumed_by_the_same_command(
    adapt: Callable, lost: Callable, bases: dict[str, Path], prepared: Dataset, tmp_path: Path, overrides: str
) -> None:
    """And by no other: whatever was asked otherwise of a layer is named."""
    sets = (RHO, f"projection.overrides={overrides}")
    for stop in (1, 2):
        run = adapt("eva", "run", stop, *sets, base="wide")
    begun, last = at(run, 0).config.projection, at(run, 2).config.projection
    assert list(begun.overrides.items()) == list(last.overrides.items())
    words = ["projection.kind=eva", f"projection.rank={RANK}", "schedule.steps=9", "train.save_every=1", RHO]
    for other in (overrides.replace("rank: 2", "rank: 3"), "{}", overrides.replace("{rank", "{init_std: 1.0, rank")):
        given = [word for each in (*words, f"projection.overrides={other}") for word in ("--set", each)]
        answer = lost("train", "--init-from", bases["wide"], "--data", prepared.path, "--out", run, *given)
        assert (answer.code, "projection.overrides = " in answer.err) == (2, True), other
    for begin in ([run], ["--init-from", bases["wide"], "--out", run]):
        answer = lost("train", *begin, "--data", prepared.path, "--set", "train.stop_after=3")
        assert answer.code == 0, answer.err
    assert at(run, 3).config.projection == last


def test_refused(adapt: Callable, bases: dict[str, Path], lost: Callable, prepared: Dataset, tmp_path: Path) -> None:
    run = adapt("eva", "run", 1)
    for begin, words, expected in (
        (run, ["projection.rho=0.5"], "projection.rho = 0.5"),
        (run, [RHO], "are adapted already, each layer at its rank"),
        (bases["dense"], [RHO, "projection.kind=lora"], "ranks move between layers of eva alone"),
    ):
        given = [word for each in words for word in ("--set", each)]
        answer = lost("train", "--init-from", begin, "--data", prepared.path, "--out", tmp_path / "second", *given)
        assert answer.code == 2
        assert expected in " ".join(answer.err.split())
        assert not (tmp_path / "second").exists()
