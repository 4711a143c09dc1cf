"""Optimizers and schedules that a test registers: what they say of themselves goes, and nothing else is edited."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import tiny_config
from pydantic import ValidationError
from runs import make_run
from values import random_values

from lost.config import Config
from lost.errors import UserError
from lost.model.load import dump
from lost.model.parameters import parameter_table
from lost.optim import KINDS, Optimizer, state_shapes
from lost.optim.rates.schedule import KINDS as SCHEDULES
from lost.optim.rates.schedule import Schedule
from lost.optim.unread import unread
from lost.planning.budget import budget
from lost.planning.cluster import traffic
from lost.reshape.grow.model import grown_moments
from lost.reshape.grow.target import target
from lost.scaling.rules import step_law_rate

SPEED = 1e4


class Silent(Optimizer):
    """A running mean of gradients, and nothing said of itself but that."""

    arrays = ("mean",)

    def update(self, row: Any, weight: Any, gradient: Any, state: Any, lr: float, number: int) -> np.ndarray:
        state["mean"] += (1 - self.settings.momentum) * (gradient - state["mean"])
        return weight - lr * state["mean"]


class Said(Silent):
    """The same, with a vector for each parameter; it says all that can be asked."""

    arrays = ("mean", "vector")
    reads: ClassVar[frozenset[str]] = frozenset({"momentum", "split_up"})
    gradient_powers: ClassVar[Mapping[str, int]] = {"mean": 1}
    begun_anew: ClassVar[Mapping[str, float]] = {"vector": 0.5}
    rate_settings = ("momentum",)

    @property
    def has_adamws_rates(self) -> bool:
        return True

    def orthogonalized(self, table: Any) -> Counter[tuple[int, int]]:
        return Counter({table["lm_head.weight"].shape: 1})

    def shapes(self, row: Any) -> dict[str, tuple[int, ...]]:
        return {"mean": row.shape, "vector": row.shape[:1]}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "silent", Silent)
    monkeypatch.setitem(KINDS, "said", Said)
    monkeypatch.setattr("lost.bench.trial.tokens_per_second", lambda config, backend, device: SPEED)


def made(name: str, **optimizer: object) -> Config:
    return tiny_config(optimizer={"name": name, **optimizer}, schedule={"steps": 100})


def suggested(lost: Callable, path: Path, config: Config, *options: object) -> dict:
    path.write_text(dump(config))
    done = lost("plan", path, "--suggest", "--device", "cpu", "--backend", "torch", "--json", *options)
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize("name", ["silent", "said"])
def test_it_is_planned(lost: Callable, tmp_path: Path, name: str) -> None:
    """On one card and on many; its state counts as it says, and what it sends to orthogonalize."""
    config, path = made(name), tmp_path / "mine.yaml"
    path.write_text(dump(config))
    for options in (("--memory-gib", 8, "--device", "cuda"), ("--world", 2)):
        done = lost("plan", path, "--backend", "torch", "--json", *options)
        assert done.code == 0, done.err
    assert budget(config).memory.moments == 4 * sum(int(np.prod(shape)) for shape in state_shapes(config).values())
    rows, columns = parameter_table(config)["lm_head.weight"].shape
    sent = 2 * -(-rows // 2) * columns * 4 if name == "said" else 0
    assert traffic(config, 2, whole_steps=True).orthogonalized == sent


def test_its_settings_are_told_to_be_unread_where_others_do_not_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: KINDS[name] for name in ("adamw", "silent")}
    monkeypatch.setattr("lost.optim.unread.OPTIMIZERS", known)
    changed = {"momentum": 0.5, "eps": 1e-6}
    assert not [*unread(made("adamw", **changed))]  # nobody says that it reads a momentum
    known["said"] = Said
    does_nothing = "optimizer.{} does nothing: {} doesn't read it; leave it out"
    assert [*unread(made("adamw", **changed))] == [does_nothing.format("momentum = 0.5", "adamw")]
    assert [*unread(made("said", **changed))] == [does_nothing.format("eps = 1e-06", "said")]
    assert not [*unread(made("silent", **changed))]


def test_a_rate_is_suggested(lost: Callable, tmp_path: Path) -> None:
    """By Step Law to one that has AdamW's rates; by runs of the same settings, where a rate depends on these."""
    path = tmp_path / "mine.yaml"
    value = suggested(lost, path, made("silent", lr=0.07))
    assert (value["lr"], value["rate_from"]) == (0.07, "the configuration")
    value = suggested(lost, path, made("said", lr=0.07))
    rate = step_law_rate(value["parameters"]["without_embeddings"], value["parameters"]["without_embeddings"] * 20)
    assert (value["lr"], value["rate_from"]) == (pytest.approx(rate, rel=0.01), "Step Law")
    for name in ("silent", "said"):
        runs = make_run(tmp_path / name, made(name, momentum=0.5), {100: 3.0})
        assert suggested(lost, path, made(name, momentum=0.5), "--from", runs)["rate_from"] == str(runs)
        path.write_text(dump(made(name)))
        done = lost("plan", path, "--suggest", "--device", "cpu", "--backend", "torch", "--from", runs)
        assert done.code == (2 if name == "said" else 0), done.err
        said = "with optimizer.name = said, optimizer.momentum = 0.95 and rates of its own"
        assert (said in " ".join(done.err.split())) == (name == "said")


def test_its_state_grows_as_it_says() -> None:
    config = made("said")
    goal, values, random = target(config, {"layers": 4, "rank": 6}), random_values(config, np.float32), np.random
    state = {name: random.default_rng(0).random(shape, np.float32) for name, shape in state_shapes(config).items()}
    grown = dict(grown_moments(goal, state, values))
    assert {name: each.shape for name, each in grown.items()} == state_shapes(goal.new)
    assert all((each == 0.5).all() for name, each in grown.items() if name.endswith(".vector"))
    norm = "layers.{}.input_layernorm.weight.mean"
    np.testing.assert_array_equal(grown["model." + norm.format(2)], state["model." + norm.format(0)])


def test_state_of_which_nothing_is_said_does_not_grow() -> None:
    config = made("silent")
    with pytest.raises(UserError, match=r"with mean of silent: only those of adamw, muon, spectron and said are known"):
        dict(grown_moments(target(config, {"rank": 6}), {}, random_values(config, np.float32)))


def test_a_schedule_says_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "steps", Schedule(lambda schedule, step: 1.0, reads=frozenset({"decay_steps"})))
    monkeypatch.setitem(SCHEDULES, "plain", Schedule(lambda schedule, step: 1.0))
    config = tiny_config(schedule={"name": "steps", "decay_steps": 2, "min_lr_ratio": 0.5})
    assert [*unread(config)] == ["schedule.min_lr_ratio = 0.5 does nothing: steps doesn't read it; leave it out"]
    assert not [*unread(tiny_config(schedule={"name": "plain", "min_lr_ratio": 0.5}))]
    for name in ("cosine", "plain"):
        with pytest.raises(ValidationError, match=f"decay_steps belongs to the schedule wsd and steps, not to {name}"):
            tiny_config(schedule={"name": name, "decay_steps": 2})
