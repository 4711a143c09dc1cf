"""`lost convert --tokenizer` and `--prune-vocab`: converted, trained on, exported; and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lost import checkpoint
from lost.checkpoint import Checkpoint, TrainState, open_checkpoint, write
from lost.config import Config
from lost.data.dataset import Dataset
from lost.engine import create_engine
from lost.model.init import initial_values
from lost.model.parameters import EMBEDDING, HEAD
from lost.prepare.sources import Sources
from lost.prepare.text import prepare

Lost = Callable[..., object]
KEPT = "the rank of a layer\nand the weight of the channel\n"
MODELS: dict[str, dict] = {
    "lost": {},
    "tied, norms, looking back": {
        "model": {"vocab_size": 320, "tie_word_embeddings": True, "use_qk_norm": True, "attention_bias": True},
        "projection": {"short_conv_width": 3},
    },
    "kinds by layer": {
        "projection": {
            "overrides": {
                "*.q_proj": {"kind": "cola"},
                "*.o_proj": {"kind": "sltrain"},
                "*.up_proj": {"kind": "dense"},
                "*.v_proj": {"kind": "lowrank"},
            }
        }
    },
    "padded": {"model": {"vocab_size": 384}},
}


@pytest.fixture(params=MODELS)
def source(
    request: pytest.FixtureRequest, config: Callable[..., Config], prepared: Dataset, tmp_path: Path
) -> Checkpoint:
    """A checkpoint with weights that no training made."""
    return made(request.param, config, prepared, tmp_path)


def made(kind: str, config: Callable[..., Config], prepared: Dataset, folder: Path) -> Checkpoint:
    """Return one that learned from a teacher and was evaluated on another set, both of the old tokens alone."""
    sections = {"model": {"vocab_size": 320}, "teacher": {"path": str(folder / "gone")}} | MODELS[kind]
    also = {"before": str(prepared.path)}
    settings = config(**sections, data={"seq_len": 8, "path": str(prepared.path), "also_evaluate": also})
    values = initial_values(settings.replace("model", initializer_range=0.3))
    state = TrainState(step=3, validation_loss=2.0)
    return write(folder / "source", values, (), settings, state, prepared.tokenizer)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    (tmp_path / "kept.txt").write_text(KEPT)
    return tmp_path / "kept.txt"


@pytest.fixture(scope="module")
def other(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the same text with another tokenizer."""
    out = tmp_path_factory.mktemp("other") / "data"
    prepare(Sources([text_folder]), out, 352, 0.1)
    return out


def arrays(path: Path) -> dict[str, np.ndarray]:
    return dict(open_checkpoint(path).parameters())


def test_pruned_weights_are_those_of_the_kept_tokens(
    lost: Lost, logits: Callable, source: Checkpoint, kept: Path, tmp_path: Path
) -> None:
    answer = lost("convert", source.path, tmp_path / "out", "--prune-vocab", kept, "--json")
    assert answer.code == 0, answer.err
    written = open_checkpoint(tmp_path / "out")
    assert list(checkpoint.problems(written)) == []
    assert (written.progress.step, written.progress.validation_loss, written.config.teacher.path) == (3, None, None)
    assert written.config.data.also_evaluate == {}
    before, after = source.tokenizer(), written.tokenizer()
    spelled = {each: number for number, each in before.entries().items()}
    order = [spelled[each] for each in after.entries().values()]
    old, new = arrays(source.path), arrays(written.path)
    for name, array in old.items():
        expected = array[order] if name in (EMBEDDING, HEAD) else array
        assert new[name].tobytes() == expected.tobytes()
    value = json.loads(answer.out)
    rows = len(order)
    assert value["tokens"] == {"before": 320, "after": rows, "kept": rows}
    assert value["rows"]["after"] == written.config.model.vocab_size == rows
    tables = sum(name in old for name in (EMBEDDING, HEAD))
    saved = value["parameters"]["before"] - value["parameters"]["after"]
    assert saved == tables * (value["rows"]["before"] - rows) * source.config.model.hidden_size
    ids = after.encode(KEPT)[:32]
    scores = []
    for each, tokens in ((source, before.encode(KEPT)[:32]), (written, ids)):
        engine = create_engine(each.config, "torch", "cpu")
        engine.load(each.parameters())
        scores.append(logits(engine, tokens[None]))
    np.testing.assert_allclose(scores[1], scores[0][..., order], rtol=1e-5, atol=1e-5)


def test_another_tokenizer_keeps_the_rows_of_tokens_that_both_know(
    lost: Lost, source: Checkpoint, other: Path, tmp_path: Path
) -> None:
    answer = lost("convert", source.path, tmp_path / "out", "--tokenizer", other, "--json")
    assert answer.code == 0, answer.err
    written = open_checkpoint(tmp_path / "out")
    assert list(checkpoint.problems(written)) == []
    old, new = arrays(source.path), arrays(written.path)
    before = {each: number for number, each in source.tokenizer().entries().items()}
    after = Dataset(other).tokenizer.entries()
    both = [(before[each], number) for number, each in after.items() if each in before]
    for name, array in old.items():
        if name in (EMBEDDING, HEAD):
            assert new[name][[to for _, to in both]].tobytes() == array[[of for of, _ in both]].tobytes()
        else:
            assert new[name].tobytes() == array.tobytes()
    value = json.loads(answer.out)
    assert value["tokens"]["kept"] == len(both) < 352
    padded = source.config.model.vocab_size == 384
    assert value["rows"]["after"] == len(new[EMBEDDING]) == (384 if padded else 352)


def test_the_way_on(lost: Lost, config: Callable[..., Config], prepared: Dataset, kept: Path, tmp_path: Path) -> None:
    """Pruned, prepared with its tokenizer, trained, sampled, exported and opened elsewhere."""
    source = made("lost", config, prepared, tmp_path)
    plain = source.config.replace("projection", activation="none")
    source = write(tmp_path / "plain", source.parameters(), (), plain, source.progress, prepared.tokenizer)
    pruned, data, run = (tmp_path / name for name in ("pruned", "data", "run"))
    kept.write_text(KEPT * 20)
    for command in (
        ("convert", source.path, pruned, "--prune-vocab", kept),
        ("prepare", kept, "--tokenizer", pruned, "--out", data, "--valid-fraction", 0.3),
        ("train", "--init-from", pruned, "--data", data, "--out", run, "schedule.steps=3", "--device", "cpu"),
        ("generate", run, "--prompt", "the rank", "--max-tokens", 3),
        ("convert", run, tmp_path / "hf", "--to", "hf"),
        ("convert", run, tmp_path / "gguf", "--to", "gguf"),
    ):
        answer = lost(*command)
        assert answer.code == 0, (command, answer.err)
        if command[-1] in ("hf", "gguf"):
            assert "the same token ids for" in answer.out
    assert open_checkpoint(pruned).tokenizer().vocab_size == Dataset(data).tokenizer.vocab_size < 320


def test_a_run_with_other_data_is_told_how(
    lost: Lost, config: Callable[..., Config], prepared: Dataset, other: Path, tmp_path: Path
) -> None:
    """Where the new ids are beyond the old rows too; and what it says works."""
    source = made("lost", config, prepared, tmp_path)
    begin = ("--data", other, "--out", tmp_path / "run", "schedule.steps=2", "--device", "cpu")
    refused = lost("train", "--init-from", source.path, *begin)
    assert refused.code == 2
    command = f"lost convert {source.path} DST --tokenizer {other}"
    assert command in refused.err
    assert lost(*command.replace("DST", str(tmp_path / "DST")).split()[1:]).code == 0
    assert lost("train", "--init-from", tmp_path / "DST", *begin).code == 0


def test_what_is_refused(
    lost: Lost,
    config: Callable[..., Config],
    prepared: Dataset,
    text_folder: Path,
    other: Path,
    kept: Path,
    tmp_path: Path,
) -> None:
    source, out = made("lost", config, prepared, tmp_path).path, tmp_path / "out"
    empty, bad = tmp_path / "empty.txt", tmp_path / "bad"
    empty.write_text("")
    bad.mkdir()
    (bad / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    (bad / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    everything = tmp_path / "everything.txt"
    entries = prepared.tokenizer.entries().values()
    everything.write_text("\n".join(each.text.decode() for each in entries if each.kind == "text"))
    for options, words in (
        (("--tokenizer", kept), f"{kept} is not a sentencepiece model"),
        (("--tokenizer", bad), "is not a tokenizer.json"),
        (("--tokenizer", tmp_path / "nowhere"), "no tokenizer at"),
        (("--tokenizer", prepared.path), "gives the same ids"),
        (("--tokenizer", other, "--prune-vocab", kept), "--prune-vocab with --tokenizer"),
        (("--tokenizer", other, "--to", "hf"), "--to hf with --tokenizer"),
        (("--prune-vocab", kept, "--to", "gguf"), "--to gguf with --prune-vocab"),
        (("--prune-vocab", kept, "--from", "hf"), "--from hf with --prune-vocab"),
        (("--end-of-text", "</s>"), "--end-of-text </s> without --tokenizer"),
        (("--prune-vocab", tmp_path / "nowhere.txt"), "nowhere.txt doesn't exist"),
        (("--prune-vocab", empty), "holds no text"),
        (("--prune-vocab", everything), "the text needs all 320 tokens"),
    ):
        answer = lost("convert", source, out, *options)
        assert (answer.code, words in answer.err) == (2, True), (options, answer.err)
        assert not out.exists()
    shutil.copytree(prepared.path, out)
    assert "already exists" in lost("convert", source, out, "--prune-vocab", kept).err
