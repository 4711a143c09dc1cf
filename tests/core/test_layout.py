"""`projections` of an export's config.json, read back: the same layers, or a refusal."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lost.config import Config
from lost.errors import ConfigError
from lost.interop.layout import read_layers, stored_layers
from lost.model.parameters import parameter_table

RANK = st.integers(1, 8)
WIDTH = st.sampled_from([0, 0, 2, 4])
SHARE = st.floats(0.001, 1)
ACTIVATION = st.sampled_from(["silu", "gelu", "relu2", "none"])
SETTINGS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("dense")}),
    st.fixed_dictionaries({"kind": st.just("lowrank"), "rank": RANK, "short_conv_width": WIDTH}),
    st.fixed_dictionaries({"kind": st.just("cola"), "rank": RANK, "activation": ACTIVATION, "short_conv_width": WIDTH}),
    st.fixed_dictionaries(
        {"kind": st.just("sltrain"), "rank": RANK, "density": SHARE, "alpha": st.floats(0.01, 100, exclude_min=True)}
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("lost"),
            "rank": RANK,
            "density": SHARE,
            "align": st.sampled_from([1, 8, 32]),
            "gamma": st.floats(0, 1),
            "short_conv_width": WIDTH,
            "learn_gamma": st.booleans(),
            "activation": ACTIVATION,
            "activation_at": st.sampled_from(["low_rank", "inner", "output"]),
        }
    ),
)
PATTERNS = st.sampled_from(["*.q_proj", "*.mlp.*", "*.1.*", "model.layers.0.mlp.gate_proj", "*.o_proj"])
HOSTS = st.fixed_dictionaries(
    {"attention_bias": st.sampled_from([False, True, "qkv"]), "mlp_bias": st.booleans(), "use_qk_norm": st.booleans()}
)


@given(SETTINGS, st.dictionaries(PATTERNS, SETTINGS, max_size=2), HOSTS, st.booleans())
def test_what_is_stored_is_read_back(
    config: Callable[..., Config], settings: dict, overrides: dict, host: dict, keep: bool
) -> None:
    """The same layers with the same parameters, whatever the settings are called now."""
    projection = {"align": 1, **settings, "overrides": overrides, "keep_gate_activation": keep}
    before = config(projection=projection, model=host)
    told = before.model.model_copy(update={"attention_bias": False, "mlp_bias": False, "use_qk_norm": False})
    model, found = read_layers(stored_layers(before), told)
    assert model == before.model
    after = before.model_copy(update={"projection": found})
    assert stored_layers(after) == stored_layers(before)
    assert parameter_table(after) == parameter_table(before)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("mlp.up_proj", {"kind": "moe"}),
        ("mlp.up_proj", {"rank": 0}),
        ("mlp.up_proj", {"rank": 17}),
        ("mlp.up_proj", {"rank": True}),
        ("mlp.up_proj", {"channels": 17}),
        ("mlp.up_proj", {"channels": 1e300}),
        ("mlp.up_proj", {"gamma": float("nan")}),
        ("mlp.up_proj", {"gamma": 1.5}),
        ("mlp.up_proj", {"activation": "__import__('os')"}),
        ("mlp.up_proj", {"norm": 4}),
        ("mlp.up_proj", {"bias": True}),
        ("mlp.up_proj", {"auto_map": "x.y"}),
        ("mlp.gate_proj", {"gate_activation": False}),
        ("self_attn.q_proj", None),
    ],
)
def test_what_no_export_says(config: Callable[..., Config], part: str, change: dict[str, Any] | None) -> None:
    settings = config(projection={"activation": "none"})
    stored = stored_layers(settings)
    if change is None:
        del stored[part]
    else:
        stored[part] |= change
    with pytest.raises((ValueError, ConfigError)):
        read_layers(stored, settings.model)


@pytest.mark.parametrize("stored", [None, [], "", {"mlp.up_proj": 3}, {"mlp.up_proj": {}}])
def test_no_description_at_all(config: Callable[..., Config], stored: object) -> None:
    with pytest.raises(ValueError, match=r"projections|dict"):
        read_layers(stored, config().model)
