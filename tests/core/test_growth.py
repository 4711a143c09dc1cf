"""Grown models: what they compute, what they learn, which sizes are refused."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from values import engine_with, random_values

from lost.config import Config
from lost.data.batch import Batch
from lost.engine import BACKENDS
from lost.errors import UserError
from lost.model import reference
from lost.model.init import initial_values
from lost.model.parameters import EMBEDDING, FINAL_NORM, HEAD, layer_projections, parameter_table
from lost.optim import state_shapes
from lost.projections import KINDS
from lost.projections.dense import Dense
from lost.reshape.grow.copies import OfWeights
from lost.reshape.grow.model import grown_moments, grown_parameters
from lost.reshape.grow.target import sizes, target

MakeConfig = Callable[..., Config]
Arrays = dict[str, np.ndarray]
TOKENS = np.random.default_rng(0).integers(0, 19, (2, 9))
PROJECTIONS: list[dict[str, Any]] = [
    {"kind": "lost"},
    {"kind": "lost", "learn_gamma": True, "activation": "relu2", "start": "zero"},
    {"kind": "lost", "activation": "gelu", "activation_at": "inner", "start": "random"},
    {"kind": "lost", "activation_at": "output", "short_conv_width": 3},
    {"kind": "cola", "short_conv_width": 3},
    {"kind": "lowrank", "start": "orthogonal"},
    {"kind": "sltrain"},
    {"kind": "lost", "overrides": {"*.0.mlp.*": {"kind": "dense"}, "*.1.*.k_proj": {"kind": "sltrain", "rank": 3}}},
    {"kind": "sltrain", "alpha": 3.0, "overrides": {"*.v_proj": {"kind": "cola"}, "*.q_proj": {"rank": 2}}},
]
MODELS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": True, "num_key_value_heads": None, "head_dim": 6},
    {"attention_bias": True, "mlp_bias": True, "use_qk_norm": True},
    {"attention_bias": "qkv", "num_key_value_heads": 1, "tie_word_embeddings": True},
]
GROWTHS: list[dict[str, float]] = [
    {"rank": 6},
    {"density": 0.5},
    {"hidden": 32},
    {"hidden": 48},
    {"intermediate": 48},
    {"layers": 5},
    {"hidden": 32, "intermediate": 72, "rank": 7, "density": 0.3, "layers": 3},
]


def logits(config: Config, values: Arrays) -> np.ndarray:
    exact = {name: value if value.dtype == np.int32 else value.astype(np.float64) for name, value in values.items()}
    return reference.logits(config, exact, TOKENS)


@settings(max_examples=60)
@given(st.sampled_from(PROJECTIONS), st.sampled_from(MODELS), st.sampled_from(GROWTHS), st.integers(0, 9))
def test_a_grown_model_computes_the_same(
    config: MakeConfig, projection: dict, model: dict, growth: dict[str, float], seed: int
) -> None:
    if projection["kind"] in ("cola", "lowrank"):
        growth = {key: size for key, size in growth.items() if key != "density"} or {"rank": 8}
    old = config(projection=projection, model=model, train={"seed": seed})
    values = random_values(old, np.float64, seed)
    goal = target(old, growth, "identity")
    grown = dict(grown_parameters(goal, values))
    shapes = {name: row.shape for name, row in parameter_table(goal.new).items()}
    assert {name: array.shape for name, array in grown.items()} == shapes
    assert shapes != {name: row.shape for name, row in parameter_table(old).items()}
    assert goal.exact
    expected = logits(old, values)
    assert np.abs(expected).max() > 0.1
    assert np.abs(logits(goal.new, grown) - expected).max() <= 1e-9 * np.abs(expected).max()


def test_an_mlp_may_widen_by_any_number(config: MakeConfig) -> None:
    for projection in ({"kind": "lost"}, {"kind": "dense"}, {"kind": "cola"}):
        old = config(projection=projection, model={"mlp_bias": True})
        values = random_values(old, np.float64)
        goal = target(old, {"intermediate": 55})
        np.testing.assert_allclose(logits(goal.new, dict(grown_parameters(goal, values))), logits(old, values))
    old = config(projection={"kind": "sltrain"})
    values = random_values(old, np.float64)
    entries = np.arange(76, dtype=np.int32)  # all in the first rows, which are copied first
    values |= {name: entries for name in values if name.endswith("gate_proj.indices")}
    with pytest.raises(UserError, match=r"gate_proj: copies of its outputs take 92 .* expected whole multiples"):
        dict(grown_parameters(target(old, {"intermediate": 25}), values))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_both_backends_see_the_same_in_float32(config: MakeConfig, logits: Callable, dtype: type, backend: str) -> None:
    old = config(projection={"short_conv_width": 3}, model={"use_qk_norm": True, "tie_word_embeddings": True})
    values = random_values(old, dtype)
    goal = target(old, {"hidden": 48, "intermediate": 50, "rank": 6, "density": 0.4})
    grown = dict(grown_parameters(goal, values))
    assert {array.dtype for array in grown.values()} == {np.dtype(dtype), np.dtype(np.int32)}
    expected = logits(engine_with(old, values, backend), TOKENS)
    found = logits(engine_with(goal.new, grown, backend), TOKENS)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("size", [13, 14, 31, 52])
def test_shares_add_up_to_the_bit_and_are_uneven(dtype: type, size: int) -> None:
    weight = np.random.default_rng(1).standard_normal((5, 13)).astype(dtype)
    weight[0, 0] = 0
    shares = OfWeights(np.random.default_rng(2)).inputs(weight, size)
    total = np.zeros((5, 13))
    for first in range(0, size, 13):
        part = shares[:, first : first + 13].astype(np.float64)
        total[:, : part.shape[1]] += part  # exact: the sum has no more digits than the weight
    assert shares.shape == (5, size)
    assert (total == weight.astype(np.float64)).all()
    if size > 26:
        first, second = shares[1:, :13].astype(np.float64), shares[1:, 13:26].astype(np.float64)
        assert (np.abs(first - second) > 0.01 * np.abs(first)).mean() > 0.9


def trained(config: Config, values: Arrays, steps: int) -> Any:
    engine = engine_with(config, values, "torch")
    batch = Batch(np.random.default_rng(3).integers(0, 19, (4, 9)).astype(np.int32))
    for _ in range(steps):
        engine.step([batch], batch.predictions, 1e-2)
    return engine


@pytest.mark.parametrize("projection", [{"kind": "cola"}, {"kind": "dense"}])
def test_copies_learn_different_things(config: MakeConfig, projection: dict) -> None:
    """With even shares they would have equal gradients for ever."""
    old = config(projection=projection)
    goal = target(old, {"hidden": 32, "intermediate": 48})
    values = dict(grown_parameters(goal, random_values(old, np.float32)))
    after = dict(trained(goal.new, values, 3).dump())
    writes = "weight" if projection["kind"] == "dense" else "up"
    for name, count in ((EMBEDDING, 16), ("model.layers.0.mlp.gate_proj", 24), ("model.layers.1.self_attn.q_proj", 16)):
        key = name if name == EMBEDDING else f"{name}.{writes}"
        moved = after[key] - values[key]
        moved = moved.T if name == EMBEDDING else moved
        assert np.linalg.norm(moved[:count] - moved[count:]) > 0.1 * np.linalg.norm(moved), name


def test_what_is_new_begins_as_a_new_layer_would_and_is_silent(config: MakeConfig) -> None:
    old = config()
    values = dict(initial_values(old))
    goal = target(old, {"rank": 6, "density": 0.5})
    grown, fresh = dict(grown_parameters(goal, values)), dict(initial_values(goal.new))
    for before, after in zip(layer_projections(old, 1), layer_projections(goal.new, 1), strict=True):
        name = after.name
        np.testing.assert_array_equal(grown[f"{name}.down"][:4], values[f"{name}.down"])
        np.testing.assert_array_equal(grown[f"{name}.down"][4:], fresh[f"{name}.down"][4:])
        assert (grown[f"{name}.up"][:, 4:6] == 0).all()
        kept, was = grown[f"{name}.channels"], values[f"{name}.channels"]
        assert len(kept) == after.in_features // 2 > len(was)
        assert set(was) < set(kept)
        columns = grown[f"{name}.up"][:, 6:]
        np.testing.assert_array_equal(columns[:, np.isin(kept, was)], values[f"{name}.up"][:, before.settings.rank :])
        assert (columns[:, ~np.isin(kept, was)] == 0).all()
    again = dict(grown_parameters(goal, values))
    assert all((again[name] == array).all() for name, array in grown.items())


def test_blocks_are_stacked_or_interleaved(config: MakeConfig) -> None:
    old = config(model={"num_hidden_layers": 3})
    values = random_values(old, np.float32)
    for depth, count, blocks in (
        ("stack", 6, (0, 1, 2, 0, 1, 2)),
        ("stack", 5, (0, 1, 2, 0, 1)),
        ("interleave", 6, (0, 0, 1, 1, 2, 2)),
        ("interleave", 4, (0, 0, 1, 2)),
        ("identity", 5, (0, 0, 1, 1, 2)),
    ):
        goal = target(old, {"layers": count}, depth)  # type: ignore[arg-type]
        assert goal.blocks == blocks
        assert goal.exact == (depth == "identity")
        grown = dict(grown_parameters(goal, values))
        for number, block in enumerate(blocks):
            own = {name: value for name, value in values.items() if name.startswith(f"model.layers.{block}.")}
            silent = number in goal.silent
            for name, value in own.items():
                _, _, _, part = name.split(".", 3)
                ends = silent and part in ("self_attn.o_proj.up", "mlp.down_proj.up")
                expected = np.zeros_like(value) if ends else value
                np.testing.assert_array_equal(grown[f"model.layers.{number}.{part}"], expected)


def test_a_copied_block_has_its_layers_settings(config: MakeConfig) -> None:
    overrides = {
        "model.layers.1.mlp.up_proj": {"rank": 3},
        "model.layers.0.self_attn.*": {"kind": "dense"},
        "*.down_proj": {"kind": "cola"},
    }
    old = config(projection={"overrides": overrides})
    goal = target(old, {"layers": 12, "rank": 5})
    for number, pairs in goal.layers():
        for before, after in pairs:
            own = before.settings.rank if before.name.endswith("1.mlp.up_proj") else 5
            assert after.settings == before.settings.model_copy(update={"rank": own}), number
    assert list(goal.new.projection.overrides)[:3] == list(overrides)
    assert len(goal.new.projection.overrides) == 3 + 5 * (1 + 4)  # of `*.down_proj` all have it anyhow


def test_moments_are_those_of_the_grown_models_gradients(config: MakeConfig) -> None:
    """Those of copies of an output add up to its own; those of what reads copies are the same for each of them."""
    for optimizer in ("adamw", "muon"):
        old = config(train={"grad_clip": 0.0}, optimizer={"name": optimizer}, model={"use_qk_norm": True})
        values = random_values(old, np.float32)
        goal = target(old, {"hidden": 32, "intermediate": 48, "rank": 6})
        before = dict(trained(old, values, 1).optimizer_state())
        found = dict(grown_moments(goal, before, values))
        actual = dict(trained(goal.new, dict(grown_parameters(goal, values)), 1).optimizer_state())
        assert {name: each.shape for name, each in found.items()} == state_shapes(goal.new)
        first = "momentum_buffer" if optimizer == "muon" else "exp_avg"
        for name, moment in found.items():
            owner, _, kind = name.rpartition(".")
            if kind not in (first, "exp_avg") or owner.endswith(".up"):  # whose new columns have gradients
                continue
            theirs = actual[name]
            if owner.endswith(".down"):
                moment, theirs = moment[:4], theirs[:4]
            elif owner != HEAD and "_norm" not in owner.replace("layernorm", ""):
                moment, theirs = (each[..., :16] + each[..., 16:] for each in (moment, theirs))
            assert np.linalg.norm(moment - theirs) <= 1e-4 * np.linalg.norm(theirs), name
        squares = found[f"{FINAL_NORM}.exp_avg_sq"]
        np.testing.assert_allclose(squares, np.tile(before[f"{FINAL_NORM}.exp_avg_sq"] / 4, 2), rtol=1e-6)


def test_moments_of_other_optimizers(config: MakeConfig) -> None:
    old = config(optimizer={"name": "spectron"})
    values = random_values(old, np.float32)
    goal = target(old, {"layers": 4}, "identity")
    found = dict(grown_moments(goal, dict(trained(old, values, 1).optimizer_state()), values))
    assert {name: each.shape for name, each in found.items()} == state_shapes(goal.new)
    assert (found["model.layers.1.mlp.up_proj.up.momentum_buffer"] == 0).all()  # a silent block's
    assert (found["model.layers.2.mlp.up_proj.up.momentum_buffer"] != 0).any()
    assert (found["model.layers.1.mlp.up_proj.up.left_vector"] == 1).all()
    quantized = config(optimizer={"name": "adamw8bit"})
    with pytest.raises(UserError, match=r"--moments keep, with exp_avg_scale of adamw8bit"):
        dict(grown_moments(target(quantized, {"rank": 6}), {}, values))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["layer=6"], "did you mean 'layers'"),
        (["channels=40"], "kept channels are a share of the inputs: density; expected KEY=VALUE, with one of layers"),
        (["rank"], "expected a whole number from 1"),
        (["rank=x"], "expected a whole number from 1"),
        (["layers=9999999999"], "expected a whole number from 1"),
        (["density=nan"], "expected a share"),
        (["density=1.5"], "expected a share"),
        (["rank=6", "rank=7"], "rank was given before, as 6"),
        (["layers=2"], "it is 2 already; expected more"),
        (["rank=3"], "it is 4 already; expected more"),
        (["hidden=24"], "expected a multiple, such as 32"),
        (["intermediate=23"], "it is 24 already"),
        (["layers=20000"], "less than or equal to 10000"),
        (["layers=6,rank=6"], "give each its own --grow"),
        (["rank=17"], "no layer allows more than 16"),
    ],
)
def test_sizes_that_are_refused(config: MakeConfig, asked: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        target(config(model={"num_key_value_heads": None}), sizes(asked))


def test_layers_that_are_refused(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    aligned = config(projection={"align": 4, "density": 0.1})  # 4 channels of 16, with 4 columns
    with pytest.raises(UserError, match=r"with rank 7, .*q_proj would keep 1 channels.* choose a rank such as 8, or"):
        target(aligned, {"rank": 7})
    assert target(aligned, {"rank": 8}).new.projection.rank == 8
    for key, kind in (("rank", "dense"), ("density", "cola")):
        with pytest.raises(UserError, match=f"no layer has projection.{key}"):
            target(config(projection={"kind": kind}), {key: 1.0 if key == "density" else 5})
    ends = config(projection={"overrides": {"*.o_proj": {"activation_at": "output", "activation": "relu2"}}})
    with pytest.raises(UserError, match="o_proj ends in relu2"):
        target(ends, {"layers": 4}, "identity")

    class Other(Dense):
        """A kind of an extension."""

    monkeypatch.setitem(KINDS, "other", Other)
    other = config(projection={"kind": "other"})
    values = random_values(other, np.float32)
    assert dict(grown_parameters(target(other, {"layers": 3}), values))
    with pytest.raises(UserError, match=r"is of kind other, of which isn't known"):
        target(other, {"layers": 3}, "identity")
    with pytest.raises(UserError, match=r"is of kind other, and only lost, cola, lowrank, sltrain and dense"):
        dict(grown_parameters(target(other, {"hidden": 32}), values))


def test_a_rank_is_of_the_layers_without_their_own(config: MakeConfig) -> None:
    goal = target(config(projection={"overrides": {"*.mlp.*": {"rank": 3}}}), {"rank": 6})
    assert [each.settings.rank for each in layer_projections(goal.new, 0)] == [6] * 4 + [3] * 3
    narrow = target(config(model={"num_key_value_heads": 1}), {"rank": 6})  # keys and values of 4 outputs
    assert [each.settings.rank for each in layer_projections(narrow.new, 1)] == [6, 4, 4, 6, 6, 6, 6]
