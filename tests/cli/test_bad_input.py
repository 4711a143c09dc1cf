"""Wrong input: each case gets a message and exit code 2, and nothing is lost."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lost.data.dataset import Dataset
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.storage.files import read_sealed_json, seal, sealed_json

Lost = Callable[..., object]


@pytest.fixture
def run(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> Path:
    done = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--set", "schedule.steps=4")
    assert done.code == 0, done.err
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.hiden_size=4", "did you mean 'hidden_size'?"),
        ("model.hidden_size=wide", "model.hidden_size = 'wide'"),
        ("projection.rank=100", "projection.rank = 100 is larger than"),
        ("projection.density=0", "projection.density = 0"),
        ("projection.density=1.1", "projection.density = 1.1"),
        ("projection.overrides={'*_proj': {kind: cola, start: zero}}", "so neither would ever be trained"),
        ("data.seq_len=100000", "data.seq_len = 100000"),
        ("model.vocab_size=100", "the tokenizer of"),
    ],
)
def test_configuration(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, override: str, named: str
) -> None:
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--set", override)
    assert answer.code == 2
    assert answer.err.startswith("lost: ")
    assert named in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "run").exists()


def test_sequence_longer_than_the_data(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    answer = lost(
        *("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run"),
        *("--set", "data.seq_len=50000", "--set", "model.max_position_embeddings=50000"),
    )
    assert answer.code == 2
    assert "data.seq_len = 50000: the train split holds only" in answer.err
    assert not (tmp_path / "run").exists()


def test_nothing_is_removed_before_the_data_is_checked(lost: Lost, run: Path) -> None:
    answer = lost(
        *("train", run, "--fresh", "--overwrite", "--set", "data.seq_len=50000"),
        *("--set", "model.max_position_embeddings=50000"),
    )
    assert answer.code == 2
    assert (run / "checkpoints" / "step-00000004").exists()


def test_fresh_removes_only_checkpoints(lost: Lost, run: Path) -> None:
    kept = run / "checkpoints" / "mine"
    kept.mkdir()
    assert lost("train", run, "--fresh", "--overwrite").code == 0
    assert kept.exists()


def test_options_that_would_be_ignored(lost: Lost, run: Path, tmp_path: Path) -> None:
    for arguments in (
        ("train", run, "--overwrite"),
        ("prepare", run, "--vocab-size", 300, "--tokenizer", run),
        ("prepare", run, "--valid-fraction", 0.1, "--valid", run),
        ("eval", run, "--data", run, "--text", run),
    ):
        answer = lost(*arguments)
        assert answer.code == 2, arguments
        assert "given" in answer.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("a.txt --include *.py", "--include given, but no text is a folder"),
        ("a.txt --include *.py --exclude b", "--include, --exclude given, but no text is a folder"),
        ("hf://owner/name --exclude b", "--exclude given, but no text is a folder"),
        ("tinystories --exclude b", "--exclude given, but no text is a folder"),
        ("a.txt --valid b.txt --text-key body", "--text-key body given, but all text is plain"),
        ("none --include *.py --text-key body", "none doesn't exist"),
        ("a.txt b.jsonl --text-key body", "no text under 'body'"),
        ("a.txt --valid folder --include *.py --text-key body", "there is no text in"),
    ],
)
def test_options_that_select_no_text(
    lost: Lost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, named: str
) -> None:
    """Rather than that all text is taken, and the reader believes that some was left out."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt", "b.jsonl", "folder/c.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text('{"text": "the rank of the layer"}\n')
    answer = lost("prepare", *words.split(), "--vocab-size", 300, "--out", "out")
    assert answer.code == 2
    assert named in answer.err
    assert not Path("out").exists()


def test_prepare(lost: Lost, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "picture.txt").write_bytes(bytes(range(256)))
    for name, named in (("empty.txt", "there is no text in"), ("picture.txt", "is not text"), ("no", "doesn't exist")):
        answer = lost("prepare", tmp_path / name, "--out", tmp_path / "out")
        assert answer.code == 2
        assert named in answer.err
        assert not (tmp_path / "out").exists()
    assert lost("prepare").code == 2


def test_no_data_and_no_tokenizer(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    answer = lost("train", tiny_yaml, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "no data: neither --data nor data.path is set" in answer.err
    shutil.copytree(prepared.path, tmp_path / "data")
    (tmp_path / "data" / "tokenizer.model").unlink()
    answer = lost("train", tiny_yaml, "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert answer.code == 2
    assert "no tokenizer at" in answer.err


def test_token_beyond_the_vocabulary_in_a_shard(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    shutil.copytree(prepared.path, tmp_path / "data")
    shard = tmp_path / "data" / "train-00000.bin"
    tokens = np.fromfile(shard, "<u2")
    tokens[:] = 9999
    tokens.tofile(shard)
    description = read_sealed_json(tmp_path / "data" / "dataset.json")  # sealed anew, as a broken tool would
    description["splits"]["train"]["files"][0]["sha256"] = seal(shard.read_bytes())["sha256"]
    (tmp_path / "data" / "dataset.json").write_bytes(sealed_json(description))
    answer = lost("train", tiny_yaml, "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert answer.code == 2
    assert "token id 9999" in answer.err


def test_data_of_another_tokenizer(lost: Lost, run: Path, text_folder: Path, tiny_yaml: Path, tmp_path: Path) -> None:
    prepare(Sources([text_folder]), tmp_path / "other", 300, 0.1)
    answer = lost("eval", run, "--data", tmp_path / "other")
    assert answer.code == 2
    assert "another tokenizer" in answer.err
    answer = lost("train", run, "--data", tmp_path / "other", "--set", "train.stop_after=9")
    assert answer.code == 2
    assert "is not the data that" in answer.err


def test_run_folder_of_another_configuration(lost: Lost, run: Path, tiny_yaml: Path, prepared: Dataset) -> None:
    before = sorted(run.rglob("*"))
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", run, "--set", "optimizer.lr=1e-3")
    assert answer.code == 2
    assert "optimizer.lr = 0.001, was 0.01" in answer.err
    assert "schedule.steps = 20, was 4" in answer.err
    assert sorted(run.rglob("*")) == before


def test_harmless_changes_are_listed_and_taken(lost: Lost, run: Path) -> None:
    answer = lost("train", run, "--set", "train.micro_batch_size=4", "--set", "train.log_every=3")
    assert answer.code == 0, answer.err
    assert "train.micro_batch_size = 4, was 2" in answer.out


def test_fresh_does_not_overwrite_by_itself(lost: Lost, run: Path) -> None:
    answer = lost("train", run, "--fresh")
    assert answer.code == 2
    assert "holds 1 checkpoint up to step-00000004" in answer.err
    assert (run / "checkpoints" / "step-00000004").exists()
    answer = lost("train", "quickstart", "--out", run, "--fresh")
    assert answer.code == 2


def test_fresh_with_overwrite_begins_again(lost: Lost, run: Path, tiny_yaml: Path, prepared: Dataset) -> None:
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", run, "--fresh", "--overwrite",
                  "--set", "schedule.steps=3")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "removing 1 checkpoint of" in answer.out
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000003"]


def test_damaged_checkpoint(lost: Lost, run: Path) -> None:
    path = run / "checkpoints" / "step-00000004" / "model-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    for target in (path.parent, run):
        for command in (("eval", target), ("generate", target), ("inspect", target)):
            answer = lost(*command)
            assert answer.code == 2
            assert "doesn't have the checksum it was written with" in answer.err
    answer = lost("train", run)
    assert answer.code == 2
    assert "none is intact" in answer.err


def test_backends_and_devices(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    arguments = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run")
    answer = lost(*arguments, "--backend", "abacus")
    assert answer.code == 2
    assert "--backend abacus: no such backend" in answer.err
    if not torch.cuda.is_available():
        for device in ("tpu", "cpu:", "cuda:x"):
            assert "PyTorch devices are" in lost(*arguments, "--backend", "torch", "--device", device).err
        answer = lost(*arguments, "--backend", "torch", "--device", "cuda")
        assert answer.code == 2
        assert "sees no such device here; available: " in answer.err
    assert not (tmp_path / "run").exists()


def test_nothing_where_a_run_is_expected(lost: Lost, tmp_path: Path) -> None:
    for command in ("eval", "generate", "inspect"):
        answer = lost(command, tmp_path / "nowhere")
        assert answer.code == 2
        assert "nowhere doesn't exist; expected a run" in answer.err


def test_sampling_values(lost: Lost, run: Path) -> None:
    answer = lost("generate", run, "--top-p", 3)
    assert answer.code == 2
    assert "top-p in (0, 1]" in answer.err
    answer = lost("generate", run, "--prompt", "the rank " * 200)
    assert answer.code == 2
    assert "the prompt has" in answer.err


def test_debug_shows_the_traceback(lost: Lost, tmp_path: Path) -> None:
    answer = lost("inspect", tmp_path / "nowhere", "--debug")
    assert answer.code == 2
    assert answer.err.startswith("Traceback")
    assert answer.err.rpartition("\n\n")[2].startswith("lost: ")


def test_framework_missing(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without PyTorch: what needs it says how to add it, what doesn't goes on working."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("lost.engine.registry.import_module", missing)
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", "torch")
    assert answer.code == 2
    assert "install it with: pip install --upgrade torch" in answer.err
    assert lost("plan", "quickstart").code == 0
    assert lost("doctor").code == 1


def test_too_large_for_the_device(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything is touched, on either backend, with a batch that fits; which then trains."""
    for backend in ("torch", "mlx"):
        monkeypatch.setattr(f"lost.backends.{backend}.capacity", lambda device: 2 << 20)
        command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / backend, "--backend", backend)
        command += ("--set", "train.batch_size=64", "--set", "schedule.steps=2")
        answer = lost(*command, "--set", "train.micro_batch_size=64")
        assert answer.code == 2
        assert "training needs about" in answer.err
        assert not (tmp_path / backend).exists()
        fits = answer.err.partition("the nearest that fits is ")[2].partition(",")[0].split()
        assert lost(*command, *fits).code == 0


def test_wired_memory_is_only_metals(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    command = ("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--wired-gib", 1)
    answer = lost(*command, "--backend", "torch")
    assert answer.code == 2
    assert "only --backend mlx can wire memory" in answer.err
    if sys.platform == "linux":
        assert "it isn't what computes here" in lost(*command, "--backend", "mlx").err
    assert not (tmp_path / "run").exists()


def test_self_test_options_without_it(lost: Lost) -> None:
    assert lost("doctor", "--device", "cpu").code == 2
    assert lost("doctor", "--self-test", "--backend", "torch", "--device", "tpu").code == 2


@pytest.mark.parametrize("command", ["inspect", "generate", "convert"])
def test_a_path_that_the_system_refuses(lost: Lost, command: str) -> None:
    answer = lost(command, "x" * 300, *(["out"] if command == "convert" else []))
    assert answer.code == 2
    assert "File name too long" in answer.err
    assert "defect" not in answer.err
