"""Initial values: the same whatever the order, the machine's threads, or the kind of projection."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from processes import run_python

from lost.config import Config
from lost.data.batch import Batch
from lost.engine import create_engine
from lost.errors import ConfigError
from lost.method.decompose import Factors, compose
from lost.model.init import check_trains, initial_values
from lost.model.parameters import parameter_table
from lost.projections import KINDS
from lost.utils.randomness import normal


def test_values_follow_the_table(config: Callable[..., Config]) -> None:
    for kind in KINDS:
        for tied in (False, True):
            settings = config(projection={"kind": kind}, model={"tie_word_embeddings": tied})
            values, table = dict(initial_values(settings)), parameter_table(settings)
            assert {name: value.shape for name, value in values.items()} == {n: row.shape for n, row in table.items()}
            assert {value.dtype for name, value in values.items() if table[name].integer} <= {np.dtype(np.int32)}
            assert {value.dtype for name, value in values.items() if table[name].trained} == {np.dtype(np.float32)}


def test_values_depend_on_seed_and_name_alone(config: Callable[..., Config]) -> None:
    small, deep = dict(initial_values(config())), dict(initial_values(config(model={"num_hidden_layers": 3})))
    for name, value in small.items():
        np.testing.assert_array_equal(value, deep[name])
    other = dict(initial_values(config(train={"seed": 1})))
    assert not np.array_equal(small["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert not np.array_equal(normal(0, "a", (3,), 1.0), normal(0, "b", (3,), 1.0))


def test_known_value() -> None:
    """A change here changes every run that was ever started."""
    np.testing.assert_array_equal(
        normal(0, "model.embed_tokens.weight", (2,), 0.02), [0.030734347140251903, -0.009271684241364766]
    )


def test_lost_starts_from_the_dense_start(config: Callable[..., Config]) -> None:
    full = {"rank": 16, "density": 0.1}
    own = dict(initial_values(config(projection=full, model={"num_key_value_heads": 4})))
    dense = dict(initial_values(config(projection={"kind": "dense"}, model={"num_key_value_heads": 4})))
    name = "model.layers.1.self_attn.k_proj"
    factors = Factors(own[f"{name}.down"], own[f"{name}.up"], own[f"{name}.channels"], 16)
    np.testing.assert_allclose(compose(factors, 1.0), dense[f"{name}.weight"], atol=1e-7)


def test_scale(config: Callable[..., Config]) -> None:
    wide = config(model={"hidden_size": 128, "intermediate_size": 256}, projection={"kind": "lowrank", "rank": 64})
    values = dict(initial_values(wide))
    product = values["model.layers.0.mlp.up_proj.up"] @ values["model.layers.0.mlp.up_proj.down"]
    assert product.std() == pytest.approx(0.02, rel=0.05)
    assert values["lm_head.weight"].std() == pytest.approx(0.02, rel=0.05)


Q = "model.layers.0.self_attn.q_proj"


def test_a_random_start_differs_in_the_low_rank_pair_alone(config: Callable[..., Config]) -> None:
    svd, random = (dict(initial_values(config(projection={"start": start}))) for start in ("svd", "random"))
    lowrank = dict(initial_values(config(projection={"kind": "lowrank"})))
    np.testing.assert_array_equal(random[f"{Q}.channels"], svd[f"{Q}.channels"])
    np.testing.assert_array_equal(random[f"{Q}.up"][:, 4:], svd[f"{Q}.up"][:, 4:])
    np.testing.assert_array_equal(random[f"{Q}.up"][:, :4], lowrank[f"{Q}.up"])
    np.testing.assert_array_equal(random[f"{Q}.down"], lowrank[f"{Q}.down"])


@pytest.mark.parametrize("kind", ["lowrank", "cola"])
def test_low_rank_kinds_start_from_triplets_when_asked(config: Callable[..., Config], kind: str) -> None:
    own = dict(initial_values(config(projection={"kind": kind, "start": "svd"})))
    lost = dict(initial_values(config()))
    np.testing.assert_array_equal(own[f"{Q}.down"], lost[f"{Q}.down"])
    np.testing.assert_array_equal(own[f"{Q}.up"], lost[f"{Q}.up"][:, :4])


@pytest.mark.parametrize("kind", ["lost", "lowrank", "cola", "sltrain"])
def test_zero_start(config: Callable[..., Config], kind: str) -> None:
    """The pair adds nothing at first; its features, and what is beside it, have the scale of the fan-in."""
    wide = {"hidden_size": 128, "intermediate_size": 512}
    settings = {"kind": kind, "start": "zero", "rank": 64, "density": 0.25}
    values = dict(initial_values(config(model=wide, projection=settings)))
    name = "model.layers.0.mlp.down_proj"
    assert not values[f"{name}.up"][:, :64].any()
    beside = {"lost": values[f"{name}.up"][:, 64:], "sltrain": values.get(f"{name}.values")}
    for value in (values[f"{name}.down"], beside.get(kind)):
        if value is not None:
            assert value.std() == pytest.approx(512**-0.5, rel=0.05)


def test_a_zero_start_of_some_projections(config: Callable[..., Config]) -> None:
    overrides = {"*.o_proj": {"start": "zero"}}
    for kind, suffix in (("dense", "weight"), ("lowrank", "up")):
        values = dict(initial_values(config(projection={"kind": kind, "overrides": overrides})))
        zero = {name for name in values if name.endswith(f"_proj.{suffix}") and not values[name].any()}
        assert zero == {f"model.layers.{layer}.self_attn.o_proj.{suffix}" for layer in (0, 1)}


@pytest.mark.parametrize("gate_keeps", [True, False])
@pytest.mark.parametrize("kind", ["dense", "lowrank", "cola", "lost", "sltrain"])
def test_what_no_update_would_reach_is_refused(config: Callable[..., Config], kind: str, gate_keeps: bool) -> None:
    """Of each two layers with a zero start: refused if both are without a gradient for as long as they're alone."""
    refused = set()
    for pair in itertools.combinations(("q", "k", "v", "o", "gate", "up", "down"), 2):
        overrides = {f"*.{name}_proj": {"start": "zero"} for name in pair}
        settings = config(
            model={"num_hidden_layers": 1},
            projection={"kind": kind, "keep_gate_activation": gate_keeps, "overrides": overrides},
        )
        engine = create_engine(settings, "torch", "cpu")
        engine.load(initial_values(settings))
        batch = Batch(np.random.default_rng(0).integers(0, 19, (4, 9)).astype(np.int32))
        engine.step([batch], batch.predictions, 1e-3)
        moved = {
            name.split(".")[-3].removesuffix("_proj")
            for name, moment in engine.optimizer_state()
            if name.endswith(("_proj.up.exp_avg", "_proj.weight.exp_avg")) and moment.any()
        }
        if not moved & set(pair):
            refused.add(pair)
            with pytest.raises(ConfigError, match=rf"{pair[0]}_proj and .*{pair[1]}_proj: .* ever be trained"):
                check_trains(settings)
        else:
            check_trains(settings)
    five = {("q", "k"), ("v", "o"), ("gate", "up"), ("gate", "down"), ("up", "down")}
    assert refused == (set() if kind in ("lost", "sltrain") else five)


@pytest.mark.parametrize("kind", ["lost", "lowrank", "cola", "sltrain"])
def test_orthogonal_start(config: Callable[..., Config], kind: str) -> None:
    """The product has equal singular values, and the mean square of the dense weight's entries."""
    wide = {"hidden_size": 64, "intermediate_size": 96}
    values = dict(initial_values(config(model=wide, projection={"kind": kind, "start": "orthogonal", "rank": 16})))
    product = values["model.layers.0.mlp.up_proj.up"][:, :16] @ values["model.layers.0.mlp.up_proj.down"]
    singular = np.linalg.svd(product, compute_uv=False)[:16]
    np.testing.assert_allclose(singular, singular[0], rtol=1e-5)
    assert (product**2).mean() ** 0.5 == pytest.approx(0.02, rel=1e-5)


def test_orthogonal_start_of_a_dense_weight(config: Callable[..., Config]) -> None:
    values = dict(initial_values(config(projection={"kind": "dense", "start": "orthogonal"})))
    weight = values["model.layers.0.mlp.up_proj.weight"]
    np.testing.assert_allclose(weight.T @ weight, np.eye(16) * 0.02**2 * 24, atol=1e-8)


def test_sltrain_may_start_with_a_pair(config: Callable[..., Config]) -> None:
    own = dict(initial_values(config(projection={"kind": "sltrain", "start": "random"})))
    lowrank = dict(initial_values(config(projection={"kind": "lowrank"})))
    np.testing.assert_array_equal(own[f"{Q}.up"], lowrank[f"{Q}.up"])
    np.testing.assert_array_equal(own[f"{Q}.down"], lowrank[f"{Q}.down"])


def test_initial_scale_of_projections(config: Callable[..., Config]) -> None:
    """By fan-in, by number, and the embedding's untouched."""
    model = {"hidden_size": 128, "intermediate_size": 512}
    for kind, suffix in (("dense", "weight"), ("sltrain", "values")):
        for wanted, std in (("fan_in", 512**-0.5), (0.3, 0.3), (None, 0.02)):
            settings = config(model=model, projection={"kind": kind, "init_std": wanted, "rank": 64})
            values = dict(initial_values(settings))
            assert values[f"model.layers.0.mlp.down_proj.{suffix}"].std() == pytest.approx(std, rel=0.05)
            assert values["model.embed_tokens.weight"].std() == pytest.approx(0.02, rel=0.1)


def test_sltrain_starts_as_its_sparse_part(config: Callable[..., Config]) -> None:
    values = dict(initial_values(config(projection={"kind": "sltrain", "density": 0.1})))
    assert not values[f"{Q}.up"].any()
    places = values[f"{Q}.indices"]
    assert len(places) == int(0.1 * 16 * 16)
    assert (np.diff(places) > 0).all()
    assert not np.array_equal(places, values["model.layers.1.self_attn.q_proj.indices"])


@pytest.mark.slow
def test_starting_a_1b_model_takes_less_than_twice_its_memory() -> None:
    """Four minutes on two cores; `benchmarks/start_up.py` prints the time as well.

    AdamW holds nothing before its first step; Muon, in `llama_1b`, its momenta.
    """
    program = (
        "from lost.backends.torch.engine import TorchEngine; from lost.planning.budget import budget\n"
        "from lost.model.load import load_config; from lost.model.init import initial_values\n"
        "from lost.utils.machine import process_peak_bytes\n"
        "config = load_config('llama_1b_paper'); TorchEngine(config, 'cpu').load(initial_values(config))\n"
        "print(process_peak_bytes() / budget(config).memory.weights)"
    )
    done = run_python("-c", program, cold=True, check=True)
    assert float(done.stdout) < 2
