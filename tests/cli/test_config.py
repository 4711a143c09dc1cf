"""The reference of the configuration: complete, and the same in the schema, in a terminal and in the documentation."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from lost.config import Config, Section
from lost.optim import KINDS as OPTIMIZERS
from lost.optim.schedule import KINDS as SCHEDULES
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
    config = Config.model_validate({"model": model, "schedule": {"steps": 8}})
    given = {f"model.{name}" for name in SIZES} | {f"model.rope_scaling.{name}" for name in SCALING}
    told, there = explained(lost), dict(values_of(config))
    assert told.keys() == there.keys() | {"model.rope_scaling"}
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
    assert explained(lost, "train").keys() == {
        f"train.{name}" for name in type(Config.model_fields["train"].default).model_fields
    }
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
    [(), ("train.seed",), ("--explain", "--reference"), ("--reference", "train"), ("--reference", "--json")],
)
def test_one_thing_is_asked(lost: Lost, arguments: tuple[str, ...]) -> None:
    answer = lost("config", *arguments)
    assert answer.code == 2
    assert "expected --explain" in answer.err
