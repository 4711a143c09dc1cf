"""Configuration: what is refused, in which words, and that all that ships can be loaded."""

from pathlib import Path

import pytest

from lost.checkpoint.changes import fixed_differences
from lost.config import Config
from lost.errors import ConfigError
from lost.model.adapted import dense_twin
from lost.model.load import dump, load_config, shipped
from lost.planning.budget import budget
from lost.planning.vocabulary import with_vocabulary


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_unknown_key_names_place_and_nearest(tiny_yaml: Path) -> None:
    edited(tiny_yaml, "num_hidden_layers: 2", "num_layerz: 2")
    message = refusal(tiny_yaml)
    assert f"{tiny_yaml}:4: model.num_layerz = 2: unknown key; did you mean 'num_hidden_layers'?" in message
    assert "model.num_hidden_layers: missing" in message  # all problems at once


def test_unknown_section_and_override(tiny_yaml: Path) -> None:
    assert refusal(tiny_yaml, "optimiser.lr=1").startswith(
        "--set: optimiser = {'lr': 1}: unknown key; did you mean 'opt"
    )
    assert refusal(tiny_yaml, "optimizer.lrr=1").startswith("--set: optimizer.lrr = 1: unknown key")
    assert refusal(tiny_yaml, "lr=1").startswith("--set: lr = 1: unknown key; did you mean 'optimizer.lr'?")
    assert refusal(tiny_yaml, "model.rank=1").startswith(
        "--set: model.rank = 1: unknown key; did you mean 'projection."
    )
    assert "expected section.key=value" in refusal(tiny_yaml, "optimizer.lr")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.hidden_size=big", "model.hidden_size = 'big'"),
        ("model.hidden_size=true", "got a boolean"),
        ("model.hidden_size=32.5", "model.hidden_size = 32.5"),
        ("projection.short_conv_width=1", "a convolution of width 1 reads no other token; expected 2 or more"),
        ("model.hidden_size=30", "num_attention_heads = 4 doesn't divide hidden_size = 30"),
        ("model.num_key_value_heads=3", "num_key_value_heads = 3"),
        ("projection.density=0", "projection.density = 0"),
        ("projection.density=1.5", "projection.density = 1.5"),
        ("projection.rank=33", "projection.rank = 33 is larger than model.layers.0.self_attn.q_proj allows"),
        ("projection.kind=magic", "projection.kind = 'magic'"),
        (
            "projection.overrides={'*.up_proj': {'rankk': 3}}",
            "overrides['*.up_proj'] isn't a set of projection settings",
        ),
        ("projection.overrides={'*.qproj': {'rank': 3}}", "'*.qproj', which matches no projection"),
        ("optimizer.lr=.inf", "optimizer.lr = inf"),
        ("optimizer.lr=.nan", "optimizer.lr = nan"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas"),
        ("train.micro_batch_size=3", "micro_batch_size = 3 doesn't divide batch_size = 4"),
        ("train.param_dtype=bfloat16", "param_dtype = bfloat16 needs dtype = bfloat16"),
        ("schedule.warmup_steps=21", "warmup_steps = 21 is more than steps = 20"),
        ("schedule.decay_steps=3", "decay_steps belongs to the schedule wsd"),
        ("data.seq_len=65", "data.seq_len = 65"),
        ("model=3", "model"),
    ],
)
def test_refused_values(tiny_yaml: Path, override: str, named: str) -> None:
    assert named in refusal(tiny_yaml, override)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        (
            "model.hidden_size=65",
            "--set: model.hidden_size = 65: num_attention_heads = 4 doesn't divide hidden_size = 65",
        ),
        ("data.seq_len=65", "--set: data.seq_len = 65 is more than"),
        ("projection.rank=99", "--set: projection.rank = 99 is larger than"),
        ("schedule.warmup_steps=99", "--set: schedule.warmup_steps = 99: warmup_steps"),
        ('projection.overrides={"*.x": {"rank": 1}}', "--set: projection.overrides = {'*.x': {'rank': 1}}:"),
    ],
)
def test_what_the_command_line_broke_is_not_blamed_on_the_file(tiny_yaml: Path, override: str, named: str) -> None:
    assert refusal(tiny_yaml, "optimizer.lr=1e-3", override, "train.log_every=5").startswith(named)


def test_what_the_file_broke_is_not_blamed_on_the_command_line(tiny_yaml: Path) -> None:
    wrong = edited(tiny_yaml, "hidden_size: 32", "hidden_size: 33")
    assert refusal(wrong, "model.rms_norm_eps=1e-5", "optimizer.lr=1").startswith(
        f"{wrong}:1: model: num_attention_heads"
    )


def test_duplicate_keys_are_caught(tiny_yaml: Path) -> None:
    edited(tiny_yaml, "  steps: 20", "  steps: 20\n  steps: 30")
    message = refusal(tiny_yaml)
    assert "schedule.steps: duplicate key" in message
    assert f"{tiny_yaml}:23" in message


def test_overrides_apply_in_order_and_yaml_floats_are_numbers(tiny_yaml: Path) -> None:
    config = load_config(tiny_yaml, ["optimizer.lr=1e-3", "optimizer.lr=2e-3", "projection.kind=dense"])
    assert config.optimizer.lr == 2e-3
    assert config.projection.kind == "dense"


def test_not_yaml_and_not_there(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("model: [")
    assert "can't be read as YAML" in refusal(bad)
    assert "did you mean 'llama_60m'?" in refusal(Path("lama_60m"))


def test_settings_by_name_pattern(tiny_yaml: Path) -> None:
    config = load_config(
        tiny_yaml, ["projection.overrides={'*.down_proj': {'rank': 5}, '*.q_proj': {'kind': 'dense'}}"]
    )
    assert config.projection.settings_for("model.layers.1.mlp.down_proj").rank == 5
    assert config.projection.settings_for("model.layers.1.self_attn.q_proj").kind == "dense"
    assert config.projection.settings_for("model.layers.1.mlp.up_proj").rank == 8


def test_the_last_pattern_that_matches_wins_so_their_order_is_part_of_a_run(tiny_yaml: Path) -> None:
    patterns = ["'*': {'gamma': 0.5}", "'*.q_proj': {'gamma': 0.6}"]
    one, other = (
        load_config(tiny_yaml, [f"projection.overrides={{{', '.join(each)}}}"]) for each in (patterns, patterns[::-1])
    )
    gammas = [each.projection.settings_for("model.layers.1.self_attn.q_proj").gamma for each in (one, other)]
    assert gammas == [0.6, 0.5]
    assert list(fixed_differences(one, other, 1)) == ["projection.overrides"]


@pytest.mark.parametrize("name", list(shipped()))
def test_every_shipped_configuration_loads_with_its_dense_twin(name: str) -> None:
    config, _ = with_vocabulary(load_config(name))
    assert config.projection.kind == "lost"
    assert budget(config).parameters < budget(dense_twin(config)).parameters
    assert Config.model_validate(config.model_dump()) == config


def test_resolved_configuration_reads_back(tiny_yaml: Path, tmp_path: Path) -> None:
    config = load_config(tiny_yaml)
    again = tmp_path / "again.yaml"
    again.write_text(dump(config))
    assert load_config(again) == config


@pytest.mark.parametrize(
    ("name", "own", "dense"),
    [
        ("llama_60m", (43, 44.5), 58),
        ("llama_130m", (94, 98), 134),
        ("llama_350m", (185, 200), 368),
        ("llama_1b", (609, 670), 1339 + 24 * 3 * 2048 * 43 / 1e6),  # 5504 wide where the papers are 5461
    ],
)
def test_published_parameter_counts(name: str, own: tuple[float, float], dense: float) -> None:
    config = load_config(name)
    assert own[0] <= budget(config).parameters / 1e6 <= own[1]
    assert budget(dense_twin(config)).parameters / 1e6 == pytest.approx(dense, abs=0.6)


BOMB = "a: &a {x: 1}\n" + "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]\n" for n in range(9))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "line 2: *a is an alias; expected the value itself"),
        ("model: &m {hidden_size: 8}\ndata: {<<: *m}\n", "line 2: *m is an alias"),
        ("a: &a [*a]\n", "line 1: *a is an alias"),
        ("a: " + "[" * 5000, "nested more than 16 deep"),
        ("".join(" " * n + "a:\n" for n in range(300)), "nested more than 16 deep"),
        ("a: " + "x" * (2 << 20), "characters; expected at most"),
        (f"train: {{seed: {'9' * 5000}}}\n", "can't be read as a YAML value"),
        ("train: {seed: !!int abc}\n", "can't be read as a YAML value"),
        ("train: {seed: !!float ''}\n", "can't be read as a YAML value"),
        ("train: {compile: !!bool maybe}\n", "can't be read as a YAML value"),
        ("data: {path: 2026-99-99}\n", "can't be read as a YAML value"),
        ("data: {path: !!timestamp tomorrow}\n", "can't be read as a YAML value"),
        ("data: {path: !!python/object/apply:os.system [ls]}\n", "can't be read as a YAML value"),
    ],
    ids=["bomb", "merge", "self", "flow", "block", "long", "digits", "int", "float", "bool", "date", "time", "python"],
)
def test_yaml_that_harms(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    message = refusal(path)
    assert words in message
    assert str(path) in message
    assert len(message) < 1000


@pytest.mark.parametrize("value", ["[" * 5000, "&a [*a]", "9" * 5000, "!!int abc", "2026-99-99", "!!float ''"])
def test_values_on_the_command_line_that_harm(tiny_yaml: Path, value: str) -> None:
    message = refusal(tiny_yaml, f"train.seed={value}")
    assert "can't be read as a YAML value" in message
    assert len(message) < 1000
