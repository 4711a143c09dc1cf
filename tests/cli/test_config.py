"""The reference of the configuration: complete, and the same in the schema, in a terminal and in the documentation."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from processes import run_python

from lost.config import Config, Section
from lost.config.elsewhere import OURS
from lost.config.reference import reference
from lost.model.load import load_config, shipped
from lost.optim import KINDS as OPTIMIZERS
from lost.optim.rates.schedule import KINDS as SCHEDULES
from lost.projections import KINDS as PROJECTIONS

Lost = Callable[..., object]
PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
SCALING = {"rope_type": "linear", "factor": 2}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def values_of(section: Section, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every key of a configuration that has all of its sections, by walking it, with its value."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from values_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def explained(lost: Lost, *key: str) -> dict[str, dict]:
    answer = lost("config", "--explain", *key, "--json")
    assert answer.code == 0, answer.err
    return {each["path"]: each for each in json.loads(answer.out)["keys"]}


def test_every_key_has_its_default_and_a_meaning(lost: Lost) -> None:
    model = {**dict.fromkeys(SIZES, 8), "hidden_size": 16, "rope_scaling": SCALING}
    train = {"early_stop": {"patience": 3}}
    config = Config.model_validate({"model": model, "train": train, "schedule": {"steps": 8}})
    given = {f"model.{name}" for name in SIZES} | {f"model.rope_scaling.{name}" for name in SCALING}
    given.add("train.early_stop.patience")
    told, there = explained(lost), dict(values_of(config))
    assert told.keys() == there.keys() | {"model.rope_scaling", "train.early_stop"}
    for path, value in there.items():
        if path == "schedule.steps":  # one of several ways to say how long a run is
            continue
        default = told[path]["default"]
        assert (default is None) == (path in given), path
        if default is not None:
            assert default == (value if isinstance(value, str) else json.dumps(value)), path
    assert all(len(each["meaning"]) > 15 and each["values"] for each in told.values())


@pytest.mark.parametrize(
    ("key", "names"), [("projection.kind", PROJECTIONS), ("optimizer.name", OPTIMIZERS), ("schedule.name", SCHEDULES)]
)
def test_what_is_registered_is_named(lost: Lost, key: str, names: Mapping[str, object]) -> None:
    meaning = explained(lost, key)[key]["meaning"]
    assert [name for name in names if name not in meaning] == []


def test_the_page_of_the_documentation(lost: Lost) -> None:
    """To bring it up to date: lost config --reference > docs/configuration.md."""
    answer = lost("config", "--reference")
    assert answer.code == 0, answer.err
    assert answer.out == PAGE.read_text(encoding="utf-8")


def test_a_key_a_section_or_everything(lost: Lost) -> None:
    assert explained(lost, "train.seed").keys() == {"train.seed"}
    keys = {f"train.{name}" for name in type(Config.model_fields["train"].default).model_fields}
    assert explained(lost, "train").keys() == keys | {"train.early_stop.patience", "train.early_stop.min_delta"}
    assert explained(lost, "model.rope_scaling").keys() > {"model.rope_scaling", "model.rope_scaling.factor"}
    assert explained(lost, "tracking").keys() == {"tracking"}
    shown = lost("config", "--explain", "train.batch_size").out.splitlines()
    assert shown[0] == "train.batch_size: integer >= 1; default 512"
    assert shown[1].startswith("    Sequences an optimizer step")
    everything = lost("config", "--explain").out
    assert all(f"\n{name}: " in f"\n{everything}" for name in explained(lost))


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("optimizer.lrr", "optimizer.lr"),
        ("optimzer", "optimizer"),
        ("rank", "projection.rank"),
        ("train.seq_len", "data.seq_len"),
        ("nonsense", None),
        ("", None),
    ],
)
def test_unknown_keys(lost: Lost, wrong: str, meant: str | None) -> None:
    answer = lost("config", "--explain", wrong)
    assert (answer.code, answer.out) == (2, "")
    assert f"{wrong!r} is no key of a configuration; " in answer.err
    assert (f"did you mean {meant!r}?" in answer.err) if meant else ("did you mean" not in answer.err)


@pytest.mark.parametrize(
    "arguments",
    [("--explain", "--reference"), ("--reference", "train"), ("--reference", "--json")],
)
def test_one_thing_is_asked(lost: Lost, arguments: tuple[str, ...]) -> None:
    answer = lost("config", *arguments)
    assert answer.code == 2
    assert "expected --explain" in answer.err


def test_each_shipped_configuration_has_a_sentence(lost: Lost) -> None:
    lines = dict(line.split(": ", 1) for line in lost("config").out.splitlines())
    assert list(lines) == list(shipped())
    assert lines["llama_60m"].endswith(
        "QK-norm, linear LOST layers (no inner activation) with a short convolution over the bottleneck"
    )
    assert not [line for line in lines.values() if line.endswith((",", "."))]


def test_a_shipped_configuration_is_printed(lost: Lost, tmp_path: Path) -> None:
    """To a file that is one to start from; without a name, what there is."""
    (tmp_path / "mine.yaml").write_text(lost("config", "llama_60m").out)
    assert load_config(tmp_path / "mine.yaml") == load_config("llama_60m")
    names = json.loads(lost("config", "--json").out)["shipped"]
    assert {"quickstart", "llama_60m"} <= set(names)
    assert [line.partition(":")[0] for line in lost("config").out.splitlines()] == names
    answer = lost("config", "lama_60m")
    assert answer.code == 2
    assert "did you mean 'llama_60m'?" in answer.err


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("optimizer.learning_rate=1", "optimizer.lr"),
        ("schedule.max_steps=1", "schedule.steps"),
        ("train.iters=1", "schedule.steps"),
        ("data.max_seq_length=1", "data.seq_len"),
        ("train.per_device_train_batch_size=1", "train.micro_batch_size"),
        ("train.max_grad_norm=1", "train.grad_clip"),
        ("train.gradient_checkpointing=true", "train.checkpoint_activations"),
        ("train.save_total_limit=1", "train.keep_last"),
        ("train.bf16=true", "train.dtype"),
        ("n_layer=2", "model.num_hidden_layers"),
    ],
)
def test_names_of_other_trainers_are_answered_with_ours(lost: Lost, given: str, ours: str) -> None:
    """Also where the key is given without --set."""
    answer = lost("plan", "quickstart", given)
    assert answer.code == 2
    assert f"unknown key; here that is {ours!r}" in answer.err
    explained = json.loads(lost("config", "--explain", ours, "--json").out)["keys"]
    assert explained[0]["path"].startswith(ours)


def test_every_name_of_others_means_a_key_of_ours() -> None:
    known = {path for part in reference() for path in (part.path, *(key.path for key in part.keys))}
    assert set(OURS.values()) <= known


def test_keys_without_set(lost: Lost) -> None:
    """As many as are given, beside --set, wherever they stand."""
    plain = json.loads(lost("plan", "quickstart", "--json").out)
    found = json.loads(
        lost("plan", "quickstart", "projection.rank=8", "--set", "data.seq_len=64", "train.batch_size=2", "--json").out
    )
    asked = ("--set", "projection.rank=8", "--set", "data.seq_len=64", "--set", "train.batch_size=2")
    assert found == json.loads(lost("plan", "quickstart", *asked, "--json").out) != plain
    answer = lost("train", "quickstart", "rank")
    assert answer.code == 2
    assert "rank: expected section.key=value" in answer.err
    without = lost("train", "optimizer.lr=1e-3")
    assert without.code == 2
    assert without.err == lost("train", "--set", "optimizer.lr=1e-3").err


def test_completion() -> None:
    """As bash asks for it, by the script that `lost --install-completion` installs."""
    program = "import sys; sys.argv = ['lost']; from lost.cli.main import main; main()"
    for words, expected in (("lost tr", "train"), ("lost train --bra", "--branch-from")):
        asked = {"_LOST_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        assert run_python("-c", program, **asked).stdout.split() == [expected]
