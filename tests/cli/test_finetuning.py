"""From a trained model to a tuned one, by the commands a user types."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lost.checkpoint import open_checkpoint
from lost.data.dataset import Dataset

NEW = """\
data: {seq_len: 32}
train: {batch_size: 4, micro_batch_size: 2, log_every: 1, eval_every: 0, save_every: 10}
optimizer: {lr: 1e-2}
schedule: {steps: 30, warmup_steps: 3}
"""


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, and completions that say again the first word."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("examples") / "train.jsonl"
    lines = []
    for _ in range(120):
        words = draw.choices(["rank", "layer", "weight", "channel"], k=2)
        lines.append(json.dumps({"prompt": f"{words[0]} of {words[1]}:", "completion": f" {words[0]}"}))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, prepared: Dataset, tiny_text: str) -> dict[str, Path]:
    """A run of each kind, of a few steps."""
    from lost.engine import create_engine
    from lost.model.load import dump, load_config
    from lost.tracking import Tracker
    from lost.training.trainer import train

    folder, runs = tmp_path_factory.mktemp("base"), {}
    (folder / "tiny.yaml").write_text(tiny_text)
    for kind in ("lost", "dense"):
        sets = [f"projection.kind={kind}", "schedule.steps=8", "train.log_every=0", f"data.path={prepared.path}"]
        config = load_config(folder / "tiny.yaml", [*sets, "model.vocab_size=320"])
        runs[kind] = folder / kind
        (folder / kind).mkdir()
        (folder / kind / "config.yaml").write_text(dump(config))
        train(config, folder / kind, prepared, create_engine(config, "torch", "cpu"), Tracker())
    return runs


@pytest.fixture
def tuning(lost: Callable, base: dict[str, Path], examples: Path, tmp_path: Path) -> Path:
    """A folder with a configuration, new.yaml, and prepared examples, data."""
    (tmp_path / "new.yaml").write_text(NEW)
    made = lost("prepare", examples, "--examples", "--tokenizer", base["lost"], "--out", tmp_path / "data",
                "--valid-fraction", "0.2", "--json")  # fmt: skip
    assert made.code == 0, made.err
    value = json.loads(made.out)["train"]
    assert 0 < value["targets"] < value["tokens"] / 2
    return tmp_path


def arguments(folder: Path, base: Path, run: str, *more: object) -> list[object]:
    return ["train", folder / "new.yaml", "--init-from", base, "--data", folder / "data", "--out", folder / run,
            "--device", "cpu", *more]  # fmt: skip


def state(run: Path, step: int) -> dict[str, bytes]:
    found = open_checkpoint(run / "checkpoints" / f"step-{step:08d}")
    return {name: array.tobytes() for name, array in (*found.parameters(), *found.moments())}


def rows(run: Path) -> list[dict]:
    return [row for line in (run / "metrics.jsonl").read_text().splitlines() if "loss" in (row := json.loads(line))]


@pytest.mark.parametrize(("kind", "backend"), [("lost", "torch"), ("dense", "torch"), ("lost", "mlx")])
def test_it_learns_the_completions(
    lost: Callable, base: dict[str, Path], tuning: Path, kind: str, backend: str
) -> None:
    source, run = base[kind] / "checkpoints" / "step-00000008", tuning / "run"
    before = json.loads(lost("eval", source, "--data", tuning / "data", "--json").out)
    targets = Dataset(tuning / "data").split("valid").loss_mask
    assert targets is not None
    assert (before["tokens"], before["bytes"]) == (targets.tokens, targets.bytes)
    command = arguments(tuning, base[kind], "run", "--backend", backend, "--set", "train.keep_last=9")
    done = lost(*command, "--json")
    assert done.code == 0, done.err
    assert "beginning with the weights of" in done.err
    assert json.loads(done.out)["validation_loss"] < before["nll"] / before["tokens"] - 1
    after = json.loads(lost("eval", run, "--json").out)
    assert after["tokens"] == before["tokens"]
    assert after["nll"] / after["tokens"] == pytest.approx(json.loads(done.out)["validation_loss"], rel=1e-4)

    begun = open_checkpoint(run / "checkpoints" / "step-00000000")
    assert state(run, 0) == {
        name: array.tobytes() for name, array in open_checkpoint(source).parameters()
    }  # no moments
    assert begun.progress.origin is not None
    assert (begun.progress.origin.path, begun.progress.origin.step) == (str(source.resolve()), 8)
    assert open_checkpoint(run / "checkpoints" / "step-00000030").progress.origin == begun.progress.origin
    assert begun.config.projection.kind == kind
    reported = rows(run)
    assert [row["lr"] for row in reported[:3]] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])  # warmed up anew
    assert [row["step"] for row in reported] == list(range(1, 31))
    assert all(0 < row["targets"] < 4 * 32 for row in reported)
    assert len({row["targets"] for row in reported}) > 1
    assert lost("verify", run).code == 0
    prompt = ("--prompt", "rank of layer:", "--max-tokens", "8", "--temperature", "0", "--json")
    assert json.loads(lost("generate", run, *prompt).out)["text"]


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_it_resumes_to_the_bit_without_what_it_began_with(
    lost: Callable, base: dict[str, Path], tuning: Path, tmp_path: Path, backend: str
) -> None:
    source = tmp_path / "gone"
    shutil.copytree(base["lost"], source)
    straight, resumed = (arguments(tuning, source, name, "--backend", backend) for name in ("straight", "resumed"))
    assert lost(*straight).code == 0
    assert lost(*resumed, "--set", "train.stop_after=13").code == 0
    shutil.rmtree(source)
    done = lost(*resumed)
    assert done.code == 0, done.err
    assert "resuming" in done.out
    assert state(tuning / "straight", 30) == state(tuning / "resumed", 30)
    keys = ("step", "loss", "grad_norm", "lr", "samples", "targets")
    both = ([{key: row[key] for key in keys} for row in rows(tuning / run)] for run in ("straight", "resumed"))
    first, second = both
    assert first == second
    assert lost("train", tuning / "resumed").code == 0  # which is done


def test_killed_before_the_weights_are_there(
    lost: Callable, base: dict[str, Path], tuning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was left isn't taken for a run that begins with random values."""

    def killed(*arguments: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("lost.training.origin.init_from.write_tensors", killed)
        assert lost(*arguments(tuning, base["lost"], "run")).code == 1
    refused = lost("train", tuning / "run")
    assert refused.code == 2
    assert "is a folder; expected a configuration" in refused.err
    done = lost(*arguments(tuning, base["lost"], "run", "--set", "train.stop_after=1"))
    assert "beginning with the weights of" in done.out


def test_another_start_of_it_meanwhile(
    lost: Callable, base: dict[str, Path], tuning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the folder and its lock, another job did all of it: nothing begins again over that."""
    command = arguments(tuning, base["lost"], "run")

    def first_the_other(*given: object) -> None:
        monkeypatch.undo()
        assert lost(*command, "--set", "train.stop_after=4").code == 0

    monkeypatch.setattr("lost.training.begin.ready.check_data", first_the_other)
    done = lost(*command)
    assert "from step 4" in done.out, done.err
    assert "beginning with" not in done.out
    assert [row["step"] for row in rows(tuning / "run")] == list(range(1, 31))


def test_everything_follows_the_weights(
    lost: Callable, base: dict[str, Path], prepared: Dataset, tmp_path: Path
) -> None:
    """Without a configuration; and the same command again goes on."""
    command = ("train", "--init-from", base["dense"], "--data", prepared.path, "--out", tmp_path / "run", "--device",
               "cpu", "--set", "schedule.steps=6", "--set", "schedule.warmup_steps=0", "--set",
               "model.max_position_embeddings=128")  # fmt: skip
    assert lost(*command, "--set", "train.stop_after=3").code == 0
    assert lost(*command).code == 0
    config = open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000006").config
    old = open_checkpoint(base["dense"] / "checkpoints" / "step-00000008").config
    assert config.model == old.model.model_copy(update={"max_position_embeddings": 128})
    assert (config.projection, config.optimizer) == (old.projection, old.optimizer)
    assert config.schedule.steps == 6


def test_dry_run_writes_nothing(lost: Callable, base: dict[str, Path], tuning: Path) -> None:
    done = lost(*arguments(tuning, base["lost"], "run", "--dry-run", "--json"))
    assert done.code == 0, done.err
    assert json.loads(done.out)["weights"].endswith("step-00000008")
    assert not (tuning / "run").exists()


def test_what_does_not_fit_is_refused(
    lost: Callable, base: dict[str, Path], tuning: Path, text_folder: Path, tmp_path: Path
) -> None:
    """Each in words, with nothing written."""
    assert lost("prepare", text_folder, "--vocab-size", 300, "--out", tmp_path / "other").code == 0
    command = arguments(tuning, base["lost"], "run")
    for changed, words in (
        (("--set", "projection.rank=4"), "projection.rank = 4, was 8"),
        (("--set", "projection.kind=dense"), "projection.kind = 'dense', was 'lost'"),
        (("--set", "model.hidden_size=64"), "model.hidden_size = 64, was 32"),
        (("--set", "model.vocab_size=400"), "model.vocab_size = 400, was 320"),
        (("--data", tmp_path / "other"), "prepared with another tokenizer"),
        (("--init-from", tmp_path / "nowhere"), "doesn't exist; expected a run"),
        (("--init-from", tmp_path / "data"), "holds no model; expected a run"),
        (("--out", base["lost"], "--fresh", "--overwrite"), "whose checkpoints a new run there would replace"),
        (("--out", base["lost"]), "didn't start with other weights"),
    ):
        done = lost(*command, *changed)
        assert done.code == 2, changed
        assert words in done.err
        assert not (tuning / "run").exists()
    assert "the new run has no name" in lost("train", "--init-from", base["lost"], "--data", tuning / "data").err
    assert lost(*command, "--set", "train.stop_after=1").code == 0
    assert "started with" in lost(*arguments(tuning, base["dense"], "run")).err


def test_damaged_weights_are_refused(lost: Callable, base: dict[str, Path], tuning: Path, tmp_path: Path) -> None:
    shutil.copytree(base["lost"], tmp_path / "broken")
    file = next((tmp_path / "broken").rglob("model-*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    done = lost(*arguments(tuning, tmp_path / "broken", "run"))
    assert done.code == 2
    assert "doesn't have the checksum" in done.err


def test_examples_in_a_folder_and_what_prepare_refuses(
    lost: Callable, base: dict[str, Path], examples: Path, prepared: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "mlx"
    folder.mkdir()
    shutil.copy(examples, folder / "train.jsonl")
    (folder / "valid.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}'
    )
    made = lost("prepare", folder, "--examples", "--tokenizer", prepared.path, "--out", tmp_path / "a", "--json")
    assert made.code == 0, made.err
    found = json.loads(made.out)
    assert (found["train"]["documents"], found["valid"]["documents"], found["valid"]["bytes"]) == (120, 1, 26)
    tokenizer = ("--tokenizer", prepared.path)
    for bad, words in (
        ((examples,), "--examples needs --tokenizer"),
        ((examples, *tokenizer, "--text-key", "x"), "have no effect with --examples"),
        ((tmp_path, *tokenizer), "holds no train.jsonl"),
        ((tmp_path / "missing.jsonl", *tokenizer), "can't be read"),
        ((examples, *tokenizer, "--valid-fraction", "2"), "expected a share in (0, 1)"),
    ):
        done = lost("prepare", *bad, "--examples", "--out", tmp_path / "b")
        assert (done.code, words in done.err) == (2, True), done.err
        assert not (tmp_path / "b").exists()


def test_each_answer_of_a_conversation(lost: Callable, prepared: Dataset, tmp_path: Path) -> None:
    turns = [{"role": role, "content": text} for role, text in (("user", "the"), ("assistant", "rank"))]
    lines = [json.dumps({"messages": [*turns, {"role": "user", "content": f"and {n}"}, turns[1]]}) for n in range(9)]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    prepare = ("prepare", tmp_path / "chat.jsonl", "--tokenizer", prepared.path, "--valid-fraction", 0.2)
    splits = []
    for name, options in (("last", ()), ("all", ("--answers", "all"))):
        done = lost(*prepare, "--examples", *options, "--out", tmp_path / name, "--json")
        assert done.code == 0, done.err
        described = json.loads((tmp_path / name / "dataset.json").read_text())
        splits.append(described["splits"]["train"])
        assert described["origin"].get("answers", "last") == name
    assert splits[0]["tokens"] == splits[1]["tokens"]
    answer = len(prepared.tokenizer.encode("rank"))
    assert splits[1]["targets"]["tokens"] - splits[0]["targets"]["tokens"] == answer * splits[0]["documents"]
    refused = lost(*prepare, "--answers", "all", "--out", tmp_path / "text")
    assert (refused.code, "--answers all without --examples" in refused.err) == (2, True), refused.err


def test_nothing_but_ends_to_learn(lost: Callable, base: dict[str, Path], tmp_path: Path) -> None:
    """Targets that stand for no bytes have no bits a byte."""
    lines = [json.dumps({"prompt": f"the rank {number}", "completion": ""}) for number in range(30)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    prepared = lost("prepare", tmp_path / "x.jsonl", "--examples", "--tokenizer", base["lost"], "--out", tmp_path / "d")
    assert prepared.code == 0, prepared.err
    answer = lost("eval", base["lost"], "--data", tmp_path / "d")
    assert answer.code == 0, answer.err
    assert "bits/byte" not in answer.out
    assert json.loads(lost("eval", base["lost"], "--data", tmp_path / "d", "--json").out)["bits_per_byte"] is None


def test_a_prompt_that_is_no_text(lost: Callable, base: dict[str, Path]) -> None:
    """As a shell gives it in another encoding."""
    answer = lost("generate", base["lost"], "--prompt", "caf\udce9", "--max-tokens", 1, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["prompt"] == "caf?"


def test_chat(lost: Callable, base: dict[str, Path]) -> None:
    """The plain template around the prompt gives the answer that the template written out gives."""
    settings = ("--max-tokens", "5", "--temperature", "0", "--json", "--prompt")
    said = json.loads(lost("generate", base["lost"], "--chat", *settings, "the rank").out)
    written = json.loads(lost("generate", base["lost"], *settings, "<|user|>\nthe rank\n<|assistant|>\n").out)
    plain = json.loads(lost("generate", base["lost"], *settings, "the rank").out)
    assert said["token_ids"] == written["token_ids"] != plain["token_ids"]
