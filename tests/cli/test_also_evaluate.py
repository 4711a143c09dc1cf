"""Further held-out sets, by name, which are evaluated whenever the run's own text is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lost.checkpoint import checkpoint_path, open_checkpoint
from lost.config import Config
from lost.data.dataset import Dataset
from lost.distributed.group import SingleProcess, agree
from lost.errors import ConfigError
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def other(prepared: Dataset, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other text, with the tokenizer of `prepared`."""
    texts = tmp_path_factory.mktemp("other")
    (texts / "a.txt").write_text("a train of sparse tokens\n" * 200)
    prepare(Sources([texts]), texts / "set", load_tokenizer(prepared.path), 0.5)
    return texts / "set"


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def arrays(run: Path) -> dict[str, bytes]:
    found = open_checkpoint(checkpoint_path(run / "checkpoints", 20))
    return {name: array.tobytes() for name, array in (*found.parameters(), *found.moments())}


def test_each_is_evaluated_when_the_run_s_own_text_is(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, other: Path, tmp_path: Path
) -> None:
    """In metrics.jsonl, on screen, at the end, and in `lost eval`, with one figure; the run is the same to the bit."""
    command = ("train", tiny_yaml, "--data", prepared.path, "--device", "cpu", "--set", "train.eval_every=10", "--out")
    also = ("--set", f"data.also_evaluate={{other: {other}, own: {prepared.path}}}", "--json")
    assert lost(*command, tmp_path / "alone").code == 0
    done = lost(*command, tmp_path / "run", *also)
    assert done.code == 0, done.err
    assert arrays(tmp_path / "run") == arrays(tmp_path / "alone")
    validations = [row for row in rows(tmp_path / "run") if "validation_loss" in row]
    assert [row["step"] for row in validations] == [10, 20]
    for row in validations:
        assert row["also_evaluated"]["own"]["loss"] == row["validation_loss"]
        assert f"step {row['step']}/20  other loss {row['also_evaluated']['other']['loss']:.4f}  " in done.err
    last = validations[-1]["also_evaluated"]
    assert json.loads(done.out)["also_evaluated"] == last
    found = json.loads(lost("eval", tmp_path / "run", "--json").out)
    alone = json.loads(lost("eval", tmp_path / "run", "--data", other, "--json").out)
    assert "also_evaluated" not in alone
    assert found["also_evaluated"]["other"] == {key: alone[key] for key in alone if key != "checkpoint"}
    assert last["other"] == pytest.approx({key: alone[key] for key in last["other"]})
    assert last["other"]["bits_per_byte"]
    assert f"other, {other}: {alone['tokens']:,} tokens, " in lost("eval", tmp_path / "run").out


def test_the_list_may_change_in_a_run(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, other: Path, tmp_path: Path
) -> None:
    """As what is evaluated, and how often, may in any run; `lost verify` agrees."""
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--device", "cpu", "--set")
    assert lost(*command, "train.stop_after=5").code == 0
    done = lost(*command, f"data.also_evaluate.other={other}")
    assert done.code == 0, done.err
    assert "changed since the checkpoint: data.also_evaluate = {'other': " in done.out
    assert ["also_evaluated" in row for row in rows(tmp_path / "run") if "validation_loss" in row] == [False, True]
    assert lost("verify", tmp_path / "run").code == 0


def test_what_can_not_be_evaluated_too_is_refused_by_name(
    lost: Callable, tiny_yaml: Path, prepared: Dataset, text_folder: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    prepare(Sources([text_folder]), foreign, 300, 0.1)
    damaged = tmp_path / "damaged"
    prepare(Sources([text_folder]), damaged, load_tokenizer(prepared.path), 0.1)
    with (damaged / "valid-00000.bin").open("r+b") as file:
        file.write(b"\1\1")
    for name, path, words in (
        ("old", foreign, f"data.also_evaluate.old: {foreign} was prepared with another tokenizer than the run's data"),
        ("old", tmp_path / "nowhere", f"data.also_evaluate.old: {tmp_path / 'nowhere'} holds no prepared data"),
        ("old", damaged, f"{damaged / 'valid-00000.bin'} doesn't have the checksum"),
        ("two words", foreign, "'two words' can't stand beside a number"),
    ):
        refused = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--device", "cpu",
                       "--set", f"data.also_evaluate={{{name}: {path}}}")  # fmt: skip
        assert refused.code == 2, refused.err
        assert words in refused.err
        assert not (tmp_path / "run").exists()


def test_workers_may_have_sets_elsewhere_but_no_others(config: Callable[..., Config]) -> None:
    said: list[str] = []

    class First(SingleProcess):
        def broadcast(self, text: str) -> str:
            said.append(text)
            return text

    class Second(SingleProcess):
        def broadcast(self, text: str) -> str:
            return said[0]

    here, there = (config(data={"also_evaluate": {"old": place}}) for place in ("here", "there"))
    agree(First(), here, {"": "its own", "old": "another"}, "torch")
    agree(Second(), there, {"": "its own", "old": "another"}, "torch")
    with pytest.raises(ConfigError, match="the prepared data here"):
        agree(Second(), there, {"": "its own", "old": "a third"}, "torch")
