"""Which vocabulary a model gets, and what is said of rows that no token uses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lost.data.dataset import Dataset
from lost.model.load import load_config
from lost.planning.budget import budget
from lost.planning.vocabulary import unused_rows
from lost.prepare import VOCAB_SIZE

Lost = Callable[..., object]


def planned(lost: Lost, *arguments: object) -> tuple[dict, str]:
    answer = lost("plan", *arguments, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out), answer.err


def test_quickstart_takes_it_from_the_data(lost: Lost, prepared: Dataset) -> None:
    """Named, it decides; without it, what `lost prepare` makes by default is assumed, and that is said."""
    assumed, said = planned(lost, "quickstart")
    assert assumed["vocab_size"] == VOCAB_SIZE
    assert f"{VOCAB_SIZE:,} entries are assumed" in said
    value, said = planned(lost, "quickstart", "--data", prepared.path)
    assert value["vocab_size"] == prepared.tokenizer.vocab_size
    assert said == ""
    fewer = assumed["parameters"]["total"] - value["parameters"]["total"]
    assert fewer == 2 * (VOCAB_SIZE - prepared.tokenizer.vocab_size) * load_config("quickstart").model.hidden_size


@pytest.mark.parametrize("key", ["path", "mixture"])
def test_data_that_a_configuration_names(lost: Lost, tiny_yaml: Path, prepared: Dataset, key: str) -> None:
    raw = yaml.safe_load(tiny_yaml.read_text())
    raw["data"][key] = str(prepared.path) if key == "path" else {str(prepared.path): 1.0}
    tiny_yaml.write_text(yaml.safe_dump(raw))
    assert planned(lost, tiny_yaml)[0]["vocab_size"] == prepared.tokenizer.vocab_size
    answer = lost("bench", tiny_yaml, "--model", "--kinds", "lost", "--rounds", 1, "--device", "cpu", "--json")
    assert json.loads(answer.out)["model"]["vocab_size"] == prepared.tokenizer.vocab_size


def test_bench_says_what_it_assumes(lost: Lost, tiny_yaml: Path) -> None:
    command = ("bench", tiny_yaml, "--rounds", 1, "--kinds", "lost", "--backend", "torch", "--device", "cpu")
    answer = lost(*command, "--model", "--json")
    assert json.loads(answer.out)["model"]["vocab_size"] == VOCAB_SIZE
    assert f"{VOCAB_SIZE:,} entries are assumed" in answer.err
    assert "assumed" not in lost(*command, "--layer").err  # a layer has none


def test_unused_rows_are_counted(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    """In a start, a dry run and a plan; not again when the run goes on."""
    entries, rows = prepared.tokenizer.vocab_size, 2048
    sets = ("--set", f"model.vocab_size={rows}", "--set", "schedule.steps=2")
    total = budget(load_config(tiny_yaml, sets[1::2])).parameters
    said = (
        f"has {entries:,} entries, and {rows - entries:,} rows ({2 * 32 * (rows - entries):,} of {total:,} parameters)"
    )
    train = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", *sets)
    assert said in lost(*train, "--dry-run").out
    assert said in lost(*train).out
    assert said in (tmp_path / "run" / "log.txt").read_text()
    assert "will never be used" not in lost(*train).out
    assert said in lost("plan", tiny_yaml, "--data", prepared.path, *sets).err


@pytest.mark.parametrize(("rows", "warned"), [(320, False), (384, False), (512, False), (513, True)])
def test_padding_is_no_waste(config: Callable, prepared: Dataset, rows: int, warned: bool) -> None:
    assert prepared.tokenizer.vocab_size == 320
    assert bool(unused_rows(config(model={"vocab_size": rows}), prepared)) == warned


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["model.tie_word_embeddings=true", "optimizer.head_lr=1e-3"], "optimizer.head_lr = 0.001 does nothing: t"),
        (["optimizer.scale=spectral", "optimizer.split_up=true"], "optimizer.split_up = True does nothing: adamw does"),
        (["optimizer.name=spectron", "optimizer.scale=original"], "optimizer.scale = original does nothing: spectron"),
        (["schedule.name=constant", "schedule.min_lr_ratio=0.5"], "schedule.min_lr_ratio = 0.5 does nothing"),
        (["optimizer.name=muon", "optimizer.scale=spectral", "optimizer.embedding_lr=1"], ""),
    ],
)  # fmt: skip
def test_settings_that_nothing_reads_are_named(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, sets: list[str], said: str
) -> None:
    more = [word for each in sets for word in ("--set", each)]
    shown = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--dry-run", *more)
    assert shown.code == 0, shown.err
    assert said in shown.out
    assert ("does nothing" in shown.out) == bool(said)
