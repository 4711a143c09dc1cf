"""The commands end to end on a small set, and the shape of what they answer to a program."""

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from processes import run_python

from lost.backends.torch import bench as torch_bench
from lost.checkpoint import open_checkpoint
from lost.config import Config
from lost.data.dataset import Dataset
from lost.model.load import load_config
from lost.model.parameters import parameter_table
from lost.planning.peak_flops import tokens_at_peak
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.metrics import read_rows
from lost.training import run as training
from lost.utils.wording import counted

Lost = Callable[..., object]


@pytest.fixture(scope="module")
def run(prepared: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, trained through the command line in a process of its own."""
    from_here = tmp_path_factory.mktemp("cli")
    config = from_here / "tiny.yaml"
    config.write_text(
        "model: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4}\n"
        "projection: {rank: 8, density: 0.1, align: 8}\n"
        "data: {seq_len: 16}\n"
        "train: {batch_size: 4, micro_batch_size: 2, log_every: 5, eval_every: 20, save_every: 10}\n"
        "optimizer: {lr: 1e-2}\n"
        "schedule: {steps: 40, warmup_steps: 4}\n"
    )
    command = ["-m", "lost", "train", config, "--data", prepared.path, "--device", "cpu"]
    command += ["--set", f"model.vocab_size={prepared.tokenizer.vocab_size + 200}"]
    with chdir(from_here):
        done = run_python(*command, cold=True, check=True)
    assert "step 40/40" in done.stdout  # plain lines in a pipe
    assert "\x1b[" not in done.stdout
    return from_here / "runs" / "tiny"


def test_run_folder(run: Path, prepared: Dataset) -> None:
    assert {path.name for path in run.iterdir()} == {
        ".lock", "checkpoints", "config.yaml", "latest", "log.txt", "metrics.jsonl"
    }  # fmt: skip
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000030", "step-00000040"]
    assert load_config(run / "config.yaml").model.vocab_size == prepared.tokenizer.vocab_size + 200
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(5, 41, 5))
    assert steps[1].keys() - {"memory_active_bytes", "memory_cache_bytes"} == {  # which not every device reports
        "step", "loss", "loss_mean", "lr", "grad_norm", "tokens", "tokens_per_second", "seconds", "memory_bytes",
        "samples", "skipped",
    }  # fmt: skip
    assert steps[1]["samples"] == [36, 39]
    assert steps[1]["tokens"] == 10 * 4 * 16
    assert [row["step"] for row in rows if "validation_loss" in row] == [20, 40]
    saves = [row for row in rows if "checkpoint" in row]
    assert [row["checkpoint"] for row in saves] == [f"step-{step:08d}" for step in (10, 20, 30, 40)]
    assert all(0 < row["stall_seconds"] <= row["seconds"] for row in saves)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5  # it learns


def test_utilization_where_the_peak_is_known(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CUDA card; a CPU's isn't known."""
    for place, at_peak in enumerate((None, 1e9)):
        if at_peak:
            monkeypatch.setattr(training, "_tokens_at_peak", lambda config, engine: 1e9)
        out = tmp_path / f"{place}"
        assert lost("train", tiny_yaml, "--data", prepared.path, "--out", out, "--set", "schedule.steps=2").code == 0
        rows = [row for row in read_rows(out / METRICS) if "lr" in row]
        assert [row.get("mfu") for row in rows] == [at_peak and row["tokens_per_second"] / at_peak for row in rows]


def test_the_peak_is_that_of_all_cards(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    described = replace(torch_bench.machine("cpu"), device_name="NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch_bench, "machine", lambda device: described)
    settings = config(train={"dtype": "bfloat16"})
    for device, cards in (("cuda:0", 8), ("cpu", None)):
        engine: Any = SimpleNamespace(backend="torch", device=device, workers=SimpleNamespace(world_size=8))
        expected = cards and tokens_at_peak(settings, device, "h100", cards)
        assert training._tokens_at_peak(settings, engine) == expected


def test_eval(lost: Lost, run: Path, prepared: Dataset, tmp_path: Path) -> None:
    answer = lost("eval", run, "--json")
    assert answer.code == 0, answer.err
    value = json.loads(answer.out)
    split = prepared.split("valid")
    figures = {"loss", "perplexity", "bits_per_byte", "information_capacity"}
    measured = {"text", "of", "unit", "context", "batch_size"}
    assert value.keys() == {"checkpoint", "nll", "tokens", "bytes", *figures, *measured}
    assert (value["tokens"], value["bytes"]) == (split.tokens - 1, split.bytes)
    assert value["perplexity"] == pytest.approx(np.exp(value["nll"] / value["tokens"]))
    assert value["bits_per_byte"] == pytest.approx(value["nll"] / np.log(2) / value["bytes"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "perplexity" in row][-1]
    assert value["perplexity"] == pytest.approx(last["perplexity"], rel=1e-9)
    one = json.loads(lost("eval", run, "--json", "--batch-size", 1).out)
    assert one["nll"] == pytest.approx(value["nll"], rel=1e-6)

    lineage = json.loads(lost("eval", run, "--json", "--lineage").out)
    batches, mean = lineage["lineage_batches"], value["nll"] / value["tokens"]
    assert lineage["lineage_perplexity"] == pytest.approx(np.exp(mean * batches / (batches + 1)))

    text = tmp_path / "some.txt"
    text.write_text("the rank of the layer and the weight of the channel\n" * 9)
    raw = json.loads(lost("eval", run / "checkpoints" / "step-00000030", "--text", text, "--json").out)
    assert raw["bytes"] == len(text.read_text())
    assert raw["tokens"] == len(prepared.tokenizer.encode(text.read_text()))
    assert "bits/byte" in lost("eval", run, "--text", text).out

    rows = tmp_path / "two.jsonl"  # documents don't run into each other: end-of-text stands between, and is predicted
    rows.write_text('{"text": "the rank"}\n{"text": "of the layer"}\n')
    both = json.loads(lost("eval", run, "--text", rows, "--json").out)
    assert both["bytes"] == len("the rankof the layer")
    assert both["tokens"] == sum(len(prepared.tokenizer.encode(each)) for each in ("the rank", "of the layer")) + 1


def test_threads(lost: Lost, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept with the run: another number rounds otherwise, and resuming says so."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        monkeypatch.setenv(name, "1")
    before, copy = torch.get_num_threads(), tmp_path / "run"
    shutil.copytree(run, copy)
    for path in (copy / "checkpoints").iterdir():
        if path.name.endswith("40"):
            shutil.rmtree(path)
    trained = open_checkpoint(copy / "checkpoints" / "step-00000030").progress.threads
    assert trained
    try:
        answer = lost("train", copy, "--backend", "torch", "--device", "cpu", "--threads", trained + 1)
        assert answer.code == 0, answer.err
        assert torch.get_num_threads() == trained + 1
    finally:
        torch.set_num_threads(before)
    assert f"trained with {counted(trained, 'thread')} so far, and now with {trained + 1}" in answer.out
    assert open_checkpoint(copy / "checkpoints" / "step-00000040").progress.threads == trained + 1
    assert lost("train", copy, "--threads", 0).code == 2


def test_generate(lost: Lost, run: Path, prepared: Dataset) -> None:
    arguments = ("generate", run, "--prompt", "the rank", "--max-tokens", 12)
    first, again, other = (json.loads(lost(*arguments, "--json", "--seed", seed).out) for seed in (1, 1, 2))
    assert first == again
    assert first["token_ids"] != other["token_ids"]
    begin = prepared.tokenizer.encode("the rank").tolist()
    assert "the rank" + first["text"] == prepared.tokenizer.decode([*begin, *first["token_ids"]])
    assert len(first["token_ids"]) <= 12
    assert lost(*arguments, "--seed", 1).out == "the rank" + first["text"] + "\n"
    whole = ("--temperature", 30, "--max-tokens", 50)  # nearly any entry may be drawn, also those no tokenizer has
    assert lost("generate", run, *whole).code == 0
    greedy = [json.loads(lost(*arguments, "--json", "--temperature", 0, "--seed", seed).out) for seed in (1, 2)]
    assert greedy[0] == greedy[1]


def test_inspect(lost: Lost, run: Path) -> None:
    value = json.loads(lost("inspect", run, "--json").out)
    assert value["step"] == 40
    assert len(value["layers"]) == 14
    layer = value["layers"][4]
    assert (layer["name"], layer["kind"], layer["shape"]) == ("model.layers.0.mlp.gate_proj", "lost", [48, 32])
    arrays = dict(open_checkpoint(run / "checkpoints" / "step-00000040").parameters())
    up, down, channels = (arrays[f"model.layers.0.mlp.gate_proj.{part}"] for part in ("up", "down", "channels"))
    low, sparse = 0.7 * up[:, :8] @ down, 0.3 * up[:, 8:]
    whole = low.astype(np.float64)
    whole[:, channels] += sparse
    energy = np.linalg.svd(whole, compute_uv=False) ** 2
    shares = energy[energy > 1e-12] / energy.sum()
    assert layer["norm"] == pytest.approx(np.linalg.norm(whole), rel=1e-5)
    assert layer["spectrum"] == pytest.approx(energy[:8].sum() / energy.sum(), rel=1e-5)
    assert layer["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    assert layer["sparse_share"] == pytest.approx((sparse**2).sum() / ((sparse**2).sum() + (low**2).sum()), rel=1e-4)
    shown = lost("inspect", run).out
    assert "0.mlp.gate_proj" in shown
    assert max(map(len, shown.splitlines()[2:])) <= 80


@pytest.mark.parametrize("kind", ["dense", "lowrank", "cola", "sltrain"])
def test_inspect_other_kinds(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, kind: str) -> None:
    done = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run",
                "--set", f"projection.kind={kind}", "--set", "schedule.steps=2")  # fmt: skip
    assert done.code == 0, done.err
    layers = json.loads(lost("inspect", tmp_path / "run", "--json").out)["layers"]
    assert {layer["kind"] for layer in layers} == {kind}
    shares = {layer["sparse_share"] for layer in layers}
    assert all(0.5 < share < 1 for share in shares) if kind == "sltrain" else shares == {None}  # its pair began at zero


def test_plan(lost: Lost) -> None:
    value = json.loads(lost("plan", "llama_60m", "--json").out)
    assert value["parameters"].keys() == {"total", "trained", "projections", "embeddings", "dense_equivalent"}
    assert value["memory_bytes"].keys() == {"weights", "gradients", "moments", "activations", "total"}
    assert (
        sum(row.size for row in parameter_table(load_config("llama_60m")).values() if row.trained)
        == (value["parameters"]["total"])
    )
    sets = ("--set", "train.micro_batch_size=64")
    assert "cuda has 0.0 MiB" in lost("plan", "llama_60m", "--memory-gib", 0, "--world", 2).err
    roomy = json.loads(lost("plan", "llama_60m", "--json", "--memory-gib", 100, *sets).out)
    refused = lost("plan", "llama_60m", "--memory-gib", 1, *sets)
    assert refused.code == 2
    assert f"training needs about {roomy['memory_bytes']['total'] / 2**30:.2f} GiB" in refused.err
    assert " GiB of 80.00 GiB on " in lost("plan", "llama_60m", "--memory-gib", 80).out.splitlines()[-1]
    assert "as set      dense" in lost("plan", "llama_60m", "--set", "projection.kind=dense").out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyTorch brings another OpenMP, which prints nothing")
@pytest.mark.parametrize(("own", "spins"), [({}, 2000), ({"GOMP_SPINCOUNT": "77"}, 77)])
def test_threads_spin_briefly(own: dict[str, str], spins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch's OpenMP itself tells when it is loaded; what the user chose is left alone."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    done = run_python("-m", "lost", "doctor", cold=True, OMP_DISPLAY_ENV="verbose", **own)
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_verify(lost: Lost, run: Path, prepared: Dataset, tmp_path: Path) -> None:
    assert lost("verify", prepared.path).code == 0
    value = json.loads(lost("verify", run, "--json").out)
    assert len(value["checked"]) == 2
    assert value["faults"] == []
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "checkpoints" / "step-00000030" / "config.json").write_text("{}")
    answer = lost("verify", copy)
    assert answer.code == 2
    assert "config.json is 2 bytes long" in answer.out


def test_help_names_every_command(lost: Lost) -> None:
    answer = lost("--help")
    names = [
        "prepare",
        "train",
        "eval",
        "generate",
        "inspect",
        "verify",
        "convert",
        "config",
        "plan",
        "bench",
        "doctor",
    ]
    for name in names:
        assert f"  {name} " in answer.out
        assert lost(name, "--help").code == 0


def test_run_folder_is_enough_to_go_on(lost: Lost, run: Path) -> None:
    answer = lost("train", run, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["step"] == 40


def test_a_run_at_its_end_is_said_to_be_complete(lost: Lost, run: Path) -> None:
    """Not that it resumes, nor that it has other threads than before: nothing is trained."""
    before = torch.get_num_threads()
    try:
        answer = lost("train", run, "--threads", before + 1)
    finally:
        torch.set_num_threads(before)
    assert answer.code == 0, answer.err
    first, _, last = answer.out.splitlines()
    assert first.startswith(f"{run} is complete, at step 40; to train its model further, ")
    assert last.startswith("done at step 40")


def test_defaults_of_prepare(lost: Lost, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = lost("prepare", text_folder, "--vocab-size", 320, "--json")
    assert answer.code == 0, answer.err
    value = json.loads(answer.out)
    assert value["path"] == os.path.join("data", text_folder.name)
    assert Dataset(Path(value["path"])).split("train").tokens == value["train"]["tokens"]


def test_shipped_configuration_by_name_trains(lost: Lost, prepared: Dataset, tmp_path: Path) -> None:
    sizes = ["--set", "model.num_hidden_layers=1", "--set", "schedule.steps=1", "--set", "schedule.warmup_steps=0"]
    answer = lost("train", "quickstart", "--data", prepared.path, "--out", tmp_path / "q", *sizes,
                  "--set", "data.seq_len=32", "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    config: Config = load_config(tmp_path / "q" / "config.yaml")
    assert config.model.vocab_size == prepared.tokenizer.vocab_size
    assert "will never be used" not in answer.err


def test_generate_ends_where_it_is_told(lost: Lost, run: Path) -> None:
    """Before a stop text, at the limit; the tokens are those without a stop text, up to there."""
    arguments = ("generate", run, "--prompt", "the rank", "--max-tokens", 30, "--seed", 3)
    whole = json.loads(lost(*arguments, "--json").out)
    assert whole["ended"] in ("length", "end_of_text")
    stop = whole["text"][5:8]
    told = json.loads(lost(*arguments, "--json", "--stop", "never there", "--stop", stop).out)
    assert told["text"] == whole["text"].partition(stop)[0]
    assert told["ended"] == "stop"
    assert told["token_ids"] == whole["token_ids"][: len(told["token_ids"])]
    assert lost(*arguments, "--stop", stop).out == f"the rank{told['text']}\n"
    assert lost(*arguments, "--stop", "").code == 2


def test_generate_several(lost: Lost, run: Path) -> None:
    arguments = ("generate", run, "--prompt", "the rank", "--max-tokens", 8, "--samples", 3)
    value = json.loads(lost(*arguments, "--json").out)
    texts = [sample["text"] for sample in value["samples"]]
    assert len(set(texts)) > 1
    assert value["text"] == texts[0]  # the first is the one that is there without --samples
    assert texts[0] == json.loads(lost(*arguments[:-2], "--json").out)["text"]
    shown = lost(*arguments)
    assert shown.out == "".join(f"the rank{text}\n" for text in texts)
    assert "sample 3 of 3" in shown.err


def test_generate_from_standard_input(lost: Lost, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the rank\nof \xff\n")))
    value = json.loads(lost("generate", run, "--prompt", "-", "--max-tokens", 2, "--json").out)
    assert value["prompt"] == "the rank\nof \ufffd"


def test_generate_from_standard_input_that_is_closed(
    lost: Lost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    answer = lost("generate", tmp_path, "--prompt", "-")
    assert (answer.code, answer.err) == (2, "lost: standard input is closed; expected the prompt; leave out `<&-`\n")


def test_generate_without_repetition(lost: Lost, run: Path) -> None:
    arguments = ("generate", run, "--prompt", "the rank", "--max-tokens", 24, "--temperature", 0, "--json")
    plain, varied = (json.loads(lost(*arguments, *more).out) for more in ((), ("--repetition-penalty", 1e9)))
    assert len(set(plain["token_ids"])) < len(plain["token_ids"])
    assert len(set(varied["token_ids"])) == len(varied["token_ids"])
    assert lost(*arguments, "--repetition-penalty", 0).code == 2


def test_generate_says_when_there_is_no_chat_template(lost: Lost, run: Path) -> None:
    answer = lost("generate", run, "--chat", "--prompt", "the rank", "--max-tokens", 2)
    assert answer.code == 0
    assert "no chat template" in answer.err


def test_more_steps_than_a_run_has_are_another_run_with_its_weights(lost: Lost, run: Path) -> None:
    answer = lost("train", run, "--set", "schedule.steps=80")
    assert answer.code == 2
    assert "schedule.steps = 80, was 40. Expected the same, or a schedule with the rates of the 40 steps " in answer.err
    assert "with --branch-from this run to go on under another schedule" in answer.err
