"""`lost bench`: the shape of its answer, that its figures belong together, what is kept and held. Never how fast."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lost.bench.options import settings
from lost.config import ProjectionSettings
from lost.model.load import load_config
from lost.planning.budget import budget
from lost.projections import projection

Lost = Callable[..., object]
KINDS = ["dense", "cola", "sltrain", "lost"]
LAYER = {"in_features": 32, "out_features": 48, "rank": 8, "density": 0.1, "tokens": 64}
SMALL = ("--layer-shape", "32x48", "--layer-rank", 8, "--layer-density", 0.1, "--layer-tokens", 64, "--device", "cpu")
SMALL += ("--set", "model.vocab_size=64")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads wait for each other in every small product, for long where other work keeps the machine busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def value_of(lost: Lost, *arguments: object) -> dict:
    answer = lost("bench", *arguments, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_answer(lost: Lost, tiny_yaml: Path, backend: str) -> None:
    value = value_of(lost, tiny_yaml, *SMALL, "--backend", backend, "--rounds", 3)
    assert value.keys() == {
        "versions", "backend", "device", "device_name", "threads", "load_average", "dtype", "param_dtype",
        "layer", "model",
    }  # fmt: skip
    assert value["versions"].keys() == {"lost", backend, "python"}
    assert (value["backend"], value["device"], value["dtype"]) == (backend, "cpu", "float32")
    layer, model = value["layer"], value["model"]
    assert {key: layer[key] for key in LAYER} == LAYER
    assert (model["config"], model["batch_size"], model["seq_len"]) == (str(tiny_yaml), 4, 16)
    for part in (layer, model):
        assert part["rounds"] == 3
        assert list(part["results"]) == KINDS
        medians = {kind: row["seconds"]["median"] for kind, row in part["results"].items()}
        for kind, row in part["results"].items():
            assert 0 < row["seconds"]["p25"] <= row["seconds"]["median"] <= row["seconds"]["p75"]
            assert row["ratio_to_dense"] == pytest.approx(medians[kind] / medians["dense"])
            assert row["ratio_to_cola"] == pytest.approx(medians[kind] / medians["cola"])
            assert (row["saved_bytes"] is None) == (backend == "mlx")
    assert layer["results"]["dense"]["flops"] == 6 * 32 * 48 * 64
    for row in layer["results"].values():
        assert row["flops_per_second"] == pytest.approx(row["flops"] / row["seconds"]["median"])
    for kind, row in model["results"].items():
        config = settings(str(tiny_yaml), ["model.vocab_size=64"], "cpu").replace("projection", kind=kind)
        needed = budget(config, backend)
        assert (row["parameters"], row["flops_per_token"]) == (needed.parameters, needed.flops_per_token)
        assert row["tokens_per_second"] == pytest.approx(4 * 16 / row["seconds"]["median"])
        assert row["mfu"] is None  # a CPU
        assert row["planned_memory_bytes"] == budget(config, backend, "cpu", 4).memory.total
        assert row["peak_memory_bytes"] > 3 * 4 * needed.parameters  # weights, two moments, and more


def test_one_part_and_fewer_kinds(lost: Lost, tiny_yaml: Path) -> None:
    value = value_of(lost, tiny_yaml, *SMALL, "--layer", "--kinds", "lost,lowrank", "--rounds", 1)
    assert value["model"] is None
    assert list(value["layer"]["results"]) == ["lost", "lowrank"]
    assert value["layer"]["results"]["lost"]["ratio_to_dense"] is None


def test_for_people(lost: Lost, tiny_yaml: Path) -> None:
    answer = lost("bench", tiny_yaml, *SMALL, "--backend", "torch", "--kinds", "dense,lost", "--rounds", 1)
    assert answer.code == 0, answer.err
    head = next(line for line in answer.out.splitlines() if "tokens/s" in line)
    assert [title for title in ("/ dense", "/ CoLA", "MFU", "peak", "saved") if title in head] == [
        "/ dense", "peak", "saved"
    ]  # fmt: skip
    assert sum(line.startswith("lost ") and "MiB" in line for line in answer.out.splitlines()) == 2


def test_in_a_narrow_terminal(lost: Lost, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What matters least goes, and what stays is whole."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    answer = lost("bench", tiny_yaml, *SMALL, "--backend", "torch", "--kinds", "dense,lost", "--rounds", 1)
    assert answer.code == 0, answer.err
    assert "…" not in answer.out
    head = next(line for line in answer.out.splitlines() if "tokens/s" in line)
    assert all(title in head for title in ("kind", "ms", "/ dense"))
    assert "25-75" not in head
    assert "1 round of dense, lost" in answer.err


def test_what_a_layer_saves(lost: Lost, tiny_yaml: Path) -> None:
    """Its input and what the core says it keeps, in float32; but for the channels' numbers."""
    chosen = {"rank": LAYER["rank"], "density": LAYER["density"], "align": 8}
    results = value_of(lost, tiny_yaml, *SMALL, "--backend", "torch", "--layer", "--rounds", 1)["layer"]["results"]
    for kind, row in results.items():
        part = projection("", 32, 48, ProjectionSettings(kind=kind, **chosen))
        assert row["saved_bytes"] == pytest.approx(64 * 4 * (32 + part.saved_per_token()), abs=8 * 32)
    assert results["dense"]["saved_bytes"] == 64 * 32 * 4


def test_what_a_model_saves(lost: Lost, tiny_yaml: Path) -> None:
    """As planned; less of it the more is computed again, and then a lower peak."""
    sizes = ("--set", "model.hidden_size=64", "--set", "model.intermediate_size=192", "--set", "model.vocab_size=64")
    saved, peaks = {}, {}
    for policy in ("none", "narrow", "full"):
        arguments = ("--model", "--kinds", "lost", "--device", "cpu", "--backend", "torch", "--rounds", 1)
        arguments += ("--batch", 8, "--seq-len", 64, "--checkpoint-activations", policy, *sizes)
        value = value_of(lost, tiny_yaml, *arguments)
        row = value["model"]["results"]["lost"]
        assert value["model"]["checkpoint_activations"] == policy
        saved[policy], peaks[policy] = row["saved_bytes"], row["peak_memory_bytes"]
    assert saved["none"] > 1.3 * saved["narrow"] > 1.3 * saved["full"]
    assert peaks["none"] > max(peaks["narrow"], peaks["full"])
    config = settings(str(tiny_yaml), sizes[1::2], "cpu", batch=8, seq_len=64)
    logits = 8 * 8 * 64 * 64
    assert saved["none"] == pytest.approx(budget(config).memory.activations - logits, rel=0.05)


def test_a_micro_batch_that_is_left_to_the_device(lost: Lost, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest that divides the batch and with which all kinds fit at once."""
    sets = ("data.seq_len=16", "model.vocab_size=64", "train.micro_batch_size=auto")
    kinds = [load_config(tiny_yaml, (*sets, "train.batch_size=8", f"projection.kind={kind}")) for kind in KINDS[:2]]
    needs = [budget(each, micro_batch=4).memory for each in kinds]
    room = sum(need.total - need.activations for need in needs) + max(need.activations for need in needs)
    monkeypatch.setattr("lost.backends.torch.capacity", lambda device: room + 1000)
    arguments = ("--model", "--kinds", "dense,cola", "--device", "cpu", "--backend", "torch", "--rounds", 1)
    value = value_of(lost, tiny_yaml, *arguments, "--batch", 8, *(word for each in sets for word in ("--set", each)))
    assert (value["model"]["batch_size"], value["model"]["micro_batch_size"]) == (8, 4)


def test_what_is_measured(tiny_yaml: Path) -> None:
    """What suits the device over the file, --set over that, what is named over all; a micro-batch where it fits."""
    trains = {device: settings("llama_60m_paper", [], device).train for device in ("cpu", "cuda")}
    assert (trains["cpu"].dtype, trains["cpu"].batch_size, trains["cpu"].micro_batch) == ("float32", 4, 4)
    cuda = trains["cuda"]
    assert (cuda.dtype, cuda.batch_size, cuda.micro_batch_size) == (
        load_config("llama_60m_paper").train.dtype,
        64,
        "auto",
    )
    assert settings("llama_60m_paper", ["train.micro_batch_size=16"], "cuda").train.batch_size == 16
    train = settings("llama_60m_paper", ["train.dtype=bfloat16", "train.batch_size=6"], "cpu").train
    assert (train.dtype, train.batch_size, train.micro_batch) == ("bfloat16", 6, 6)
    assert settings("llama_60m_paper", ["train.dtype=bfloat16"], "cpu", dtype="float32").train.dtype == "float32"
    pure = settings("llama_60m_paper", ["train.param_dtype=bfloat16"], "cpu", dtype="bfloat16").train
    assert (pure.dtype, pure.param_dtype) == ("bfloat16", "bfloat16")
    named = {
        size: settings("llama_60m_paper", ["train.micro_batch_size=64"], "cuda", batch=size).train
        for size in (4, 64, 128)
    }
    assert [each.micro_batch for each in named.values()] == [4, 64, 64]
    assert settings("llama_60m_paper", [], "cuda", batch=128).train.micro_batch_size == "auto"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--kinds", "dense,lots"), "--kinds dense,lots: there is no kind 'lots'; expected some of dense,"),
        (("--kinds", ""), "there is no kind ''"),
        (("--kinds", "lost,dense,lost"), "--kinds lost,dense,lost: lost is listed twice; expected each kind once"),
        (("--layer-rank", 800), "--layer-rank 800: a layer of 768x2048 has a rank of at least 1 and at most 768"),
        (("--layer-shape", "768"), "--layer-shape 768: expected INxOUT, such as 768x2048"),
        (("--layer-shape", "0x9"), "--layer-shape 0x9: expected two numbers from 1 to"),
        (("--layer-shape", "99999999999x9"), "--layer-shape 99999999999x9: expected two numbers from 1 to"),
        (("--layer-density", 0), "--layer-density 0.0: expected a share"),
        (("--layer-tokens", 0), "--layer-tokens 0: expected 1 or more"),
        (("--rounds", 0), "--rounds 0: expected 1 or more"),
        (("--batch", 0), "--batch 0: expected 1 or more"),
        (("--seq-len", 100), "data.seq_len = 100 is more than model.max_position_embeddings = 64"),
        (("--layer", "--batch", 4), "--batch 4 has no effect with --layer alone"),
        (("--model", "--layer-rank", 4), "--layer-rank 4 has no effect with --model alone"),
        (("--model", "--set", "projection.rank=100"), "projection.rank = 100 is larger than"),
        (("--dtype", "float64"), "float64"),
        (("--device", "abacus"), "--device abacus"),
        (("--backend", "abacus"), "--backend abacus: no such backend"),
    ],
)
def test_bad_input(lost: Lost, tiny_yaml: Path, arguments: tuple[object, ...], named: str) -> None:
    answer = lost("bench", tiny_yaml, *arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert named in answer.err
    assert "Traceback" not in answer.err


def test_models_that_fit_one_by_one_but_not_together(
    lost: Lost, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(str(tiny_yaml), ["model.vocab_size=8192"], "cpu").replace("projection", kind="dense")
    monkeypatch.setattr("lost.backends.torch.capacity", lambda device: int(1.2 * budget(config).memory.total))
    arguments = (tiny_yaml, "--model", "--backend", "torch", "--device", "cpu", "--rounds", 1)
    answer = lost("bench", *arguments)
    assert answer.code == 2
    assert "--kinds dense,cola,sltrain,lost: held at once, they need about" in answer.err
    assert lost("bench", *arguments, "--kinds", "dense").code == 0
