"""Adapters by the commands a user types: a dense model is adapted, moved and merged."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import numpy as np
import pytest
from adaptations import RANK, arrays, at, run_data, scores
from conftest import FEW
from processes import torchrun

from lost.config import Config
from lost.data.dataset import Dataset
from lost.data.mixture import training_stream
from lost.engine import BACKENDS, backend_module
from lost.model.parameters import parameter_table
from lost.planning.budget import budget
from lost.projections.adapters import Eva
from lost.training.origin import calibration
from lost.training.origin.calibration import measure_of

KINDS = ("lora", "pissa")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_begins_as_the_base_and_moves_the_pairs_alone(
    adapt: Callable, bases: dict[str, Path], logits: Callable, kind: str, backend: str
) -> None:
    run = adapt(kind, "run", 2, base="rich", backend=backend)
    was, begun, moved = scores(at(bases["rich"], 2), backend, logits), at(run, 0), at(run, 2)
    found = scores(begun, backend, logits)
    assert np.array_equal(found, was) if kind == "lora" else np.allclose(found, was, atol=1e-5)
    before, after = arrays(begun), arrays(moved)
    pairs = {name for name in before if name.endswith((".down", ".up"))}
    assert len(pairs) == 2 * 7 * 2
    assert {name for name in before if after[name] != before[name]} == pairs
    assert after.keys() - before.keys() == {
        f"{name}.{moment}" for name in pairs for moment in ("exp_avg", "exp_avg_sq")
    }
    source = arrays(at(bases["rich"], 2))
    assert not any(row.decays for name, row in parameter_table(begun.config).items() if name not in pairs)
    kept = [name for name in before if name not in pairs and (kind == "lora" or "_proj.weight" not in name)]
    assert all(before[name] == source[name] for name in kept)


@pytest.mark.parametrize("backend", BACKENDS)
def test_eva_begins_where_the_inputs_vary_most(
    adapt: Callable, bases: dict[str, Path], prepared: Dataset, logits: Callable, backend: str
) -> None:
    begun = at(adapt("eva", "run", 1, backend=backend), 0)
    assert np.array_equal(scores(begun, backend, logits), scores(at(bases["dense"], 2), backend, logits))
    values, length = dict(begun.parameters()), begun.config.data.seq_len
    stream = training_stream(prepared, length, begun.config.train.seed)
    tokens = stream.batch(0, calibration.TOKENS // length).tokens[:, :-1]
    x = values["model.embed_tokens.weight"][tokens].astype(np.float64)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * values["model.layers.0.input_layernorm.weight"]
    rows = x.reshape(-1, x.shape[-1])
    energy = np.linalg.eigvalsh(rows.T @ rows)[::-1]
    for part in ("q", "k", "v"):
        down = values[f"model.layers.0.self_attn.{part}_proj.down"].astype(np.float64)
        np.testing.assert_allclose(down @ down.T, np.eye(RANK), atol=1e-5)
        np.testing.assert_allclose(((rows @ down.T) ** 2).sum(0), energy[:RANK], rtol=1e-3)


def test_resumed_to_the_bit_and_moved_to_the_other_backend_and_back(adapt: Callable, lost: Callable) -> None:
    straight = adapt("pissa", "straight", 4)
    for stop in (2, 4):
        resumed = adapt("pissa", "resumed", stop)
    assert arrays(at(resumed, 4)) == arrays(at(straight, 4))
    for stop, backend in ((1, "torch"), (3, "mlx"), (4, "torch")):
        moved = adapt("pissa", "moved", stop, backend=backend)
    own, other = (dict(at(run, 4).parameters()) for run in (straight, moved))
    for name, array in own.items():
        if name.endswith((".down", ".up")):
            np.testing.assert_allclose(other[name], array, atol=1e-4)
        else:
            assert np.array_equal(other[name], array), name
    assert lost("verify", moved).code == 0


def test_all_else_may_be_trained_too_and_some_layers_left_out(adapt: Callable) -> None:
    run = adapt("lora", "rest", 1, "projection.train_rest=true")
    before, after = arrays(at(run, 0)), arrays(at(run, 1))
    still = {name for name in before if after[name] == before[name]}
    assert still == {name for name in before if name.endswith("_proj.weight")} | {
        name
        for name in before
        if name.endswith(".down")  # whose gradient is a multiple of `up`, which is zero
    }
    run = adapt("dense", "some", 1, "projection.overrides={'*.mlp.*': {kind: lora, rank: 2, alpha: 2}}")
    before, after = arrays(at(run, 0)), arrays(at(run, 1))
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {name for name in before if ".mlp." in name and name.endswith(".up")}


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_layers_stay_as_they_are_beside_adapters(
    adapt: Callable, lost: Callable, tmp_path: Path, backend: str
) -> None:
    """Whatever is recomputed, and compiled."""
    ways = [[f"train.checkpoint_activations={policy}"] for policy in ("none", "narrow", "full")]
    ways += [[*each, "train.compile=true"] for each in ways] if backend == "mlx" else []
    runs = [adapt("lora", f"run-{n}", 2, *way, base="mixed", backend=backend) for n, way in enumerate(ways)]
    before, after = arrays(at(runs[0], 0)), arrays(at(runs[0], 2))
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {name for name in before if ".self_attn." in name and name.endswith((".down", ".up"))}
    for name, array in at(runs[0], 2).parameters():
        for run in runs[1:]:
            np.testing.assert_allclose(dict(at(run, 2).parameters())[name], array, atol=1e-5, err_msg=name)
    if backend == "torch":
        answer = lost("convert", runs[0], tmp_path / "hf", "--to", "hf", "--json")
        assert json.loads(answer.out)["checked"], answer.err
        layers = json.loads((tmp_path / "hf" / "config.json").read_text())["projections"]
        assert {each["kind"] for each in layers.values()} == {"dense", "lost"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_frozen_weights_in_half_the_bytes(adapt: Callable, lost: Callable, backend: str) -> None:
    for stop in (1, 2):
        run = adapt("lora", "half", stop, "train.frozen_dtype=bfloat16", backend=backend)
    found = {name: each.dtype.name for name, each in at(run, 2).parameters()}
    pairs = {name for name in found if name.endswith((".down", ".up"))}
    assert {found[name] for name in pairs} == {"float32"}
    assert {each for name, each in found.items() if name not in pairs} == {"bfloat16"}
    assert lost("verify", run).code == 0


def test_counted_as_they_are(lost: Callable, tiny_yaml: Path) -> None:
    words = ("--set", "projection.rank=4", "--set", "model.vocab_size=320", "--json", "--backend", "torch")
    dense, lora, half = (
        json.loads(lost("plan", tiny_yaml, *(word for each in sets for word in ("--set", each)), *words).out)
        for sets in (
            ["projection.kind=dense"],
            ["projection.kind=lora"],
            ["projection.kind=lora", "train.frozen_dtype=bfloat16"],
        )
    )
    pairs = 2 * 4 * (4 * (32 + 32) + 3 * (32 + 48))  # blocks, rank, both sides of seven matrices
    assert lora["parameters"]["trained"] == pairs
    assert lora["parameters"]["total"] == dense["parameters"]["total"] + pairs
    assert dense["parameters"]["trained"] == dense["parameters"]["total"]
    memory = lora["memory_bytes"]
    assert memory["gradients"] == 4 * pairs
    assert memory["moments"] == 8 * pairs
    assert memory["weights"] == 4 * lora["parameters"]["total"]
    assert half["memory_bytes"]["weights"] == 2 * dense["parameters"]["total"] + 4 * pairs
    matrices = 2 * (4 * 32 * 32 + 3 * 32 * 48) + 320 * 32
    assert lora["flops_per_token"] == dense["flops_per_token"] + 6 * pairs - 2 * matrices


@pytest.mark.parametrize("kind", KINDS)
def test_merged_for_others(adapt: Callable, lost: Callable, tmp_path: Path, kind: str) -> None:
    """A folder that holds the base model's arrays alone, opened by other programs before it is kept."""
    run = adapt(kind, "run", 3)
    answer = lost("convert", run, tmp_path / "hf", "--to", "hf", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["checked"]
    assert not json.loads(answer.out)["needs_code"]
    own, merged = (lost("eval", each, "--data", run_data(run), "--json") for each in (run, tmp_path / "hf"))
    assert json.loads(merged.out)["loss"] == pytest.approx(json.loads(own.out)["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("base", "sets", "expected"),
    [
        (None, ["projection.kind=lora"], "name it with --init-from"),
        ("dense", ["projection.kind=lora", "projection.rank=40"], "its rank is at most 32"),
        ("lost", ["projection.kind=pissa"], "stored as lost; expected a dense weight to adapt; merge layers without"),
    ],
)
def test_refused(
    lost: Callable, bases: dict[str, Path], prepared: Dataset, tiny_yaml: Path, tmp_path: Path,
    base: str | None, sets: list[str], expected: str,
) -> None:  # fmt: skip
    begins = ("--init-from", bases[base]) if base else (tiny_yaml,)
    words = [word for each in sets for word in ("--set", each)]
    answer = lost("train", *begins, "--data", prepared.path, "--out", tmp_path / "run", *words)
    assert answer.code == 2
    assert expected in " ".join(answer.err.split())
    assert not (tmp_path / "run").exists()


def test_other_adapters_than_the_weights_own_are_refused(adapt: Callable, lost: Callable, tmp_path: Path) -> None:
    run = adapt("lora", "first", 1)
    for sets, code in ((["projection.rank=2"], 2), (["projection.kind=dense"], 2), (["schedule.steps=3"], 0)):
        words = [word for each in sets for word in ("--set", each)]
        second = tmp_path / f"second-{code}"
        answer = lost("train", "--init-from", run, "--data", run_data(run), "--out", second, *words)
        assert answer.code == code, answer.err
        if code:
            assert "are adapted already (lora, rank 4)" in " ".join(answer.err.split())
            assert "--to dense" in answer.err
    begun, last = arrays(at(tmp_path / "second-0", 0)), arrays(at(run, 1))
    assert all(last[name] == each for name, each in begun.items())


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_measured_of_a_base_in_half_the_bytes(
    adapt: Callable, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """As a run computes in bfloat16, and freezes its weights in it: as many directions are found of what it reads."""
    module, asked = backend_module(backend), []

    def create(config: Config, *rest: Any) -> Any:
        asked.append(config)
        return made(config, *rest)

    made = module.create
    monkeypatch.setattr(module, "create", create)
    found = []
    for name, sets in (("whole", ()), ("half", ("train.frozen_dtype=bfloat16",))):
        begun = at(adapt("eva", name, 1, "train.dtype=bfloat16", *sets, backend=backend), 0)
        found.append({key: each.astype(np.float64) for key, each in begun.parameters() if key.endswith(".down")})
    measured = [each.train for each in asked if each.projection.kind == "dense"]
    assert [each.param_dtype for each in measured] == ["float32", "bfloat16"]
    assert len(found[0]) == 14
    for name, down in found[0].items():
        assert np.linalg.svd(down @ found[1][name].T)[1].min() > 0.9, name  # the least cosine between both spaces


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "rho"), [("eva", 1), ("eva", 2), ("lora_sb", 1)])
def test_a_run_that_begins_by_its_base_has_room_for_it_or_does_not_begin(
    adapt: Callable, bases: dict[str, Path], lost: Callable, prepared: Dataset, tmp_path: Path, backend: str,
    kind: str, rho: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Beside its own weights, before it trains; from then on it needs no more than training does."""
    sets = (f"projection.kind={kind}", f"projection.rank={RANK}", f"projection.rho={rho}", "schedule.steps=9")
    run = adapt(kind, "run", 1, f"projection.rho={rho}", base="wide", backend=backend)
    room = budget(at(run, 1).config, backend, "cpu").memory.total
    monkeypatch.setattr(f"lost.backends.{backend}.capacity", lambda device: room)
    given = [word for each in sets for word in ("--set", each)]
    command = ("train", "--init-from", bases["wide"], "--data", prepared.path, "--backend", backend, "--device", "cpu",
               "--out", tmp_path / "second", *given)  # fmt: skip
    for more in ((), ("--dry-run",)):
        answer = lost(*command, *more)
        said = " ".join(answer.err.split())
        assert (answer.code, "the run measures its base model beside itself" in said) == (2, True), said
        assert f"projection.kind = {kind}" in said
        assert "ranks moved" not in said  # refused before anything is measured
    assert not (tmp_path / "second").exists()
    adapt(kind, "run", 2, f"projection.rho={rho}", base="wide", backend=backend)
    monkeypatch.undo()


def test_a_block_is_measured_once_and_its_layers_are_decomposed_side_by_side(
    adapt: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one process, which others wait for: hours of a large model's, one by one."""
    threads, asked, begin = set(), [], Eva.adapting

    def recorded(self: Eva, *arguments: Any) -> Any:
        threads.add(current_thread())
        return begin(self, *arguments)

    def recording(*arguments: Any) -> Any:
        measure = measure_of(*arguments)
        return lambda what, names: asked.append(list(names)) or measure(what, names)

    monkeypatch.setattr(Eva, "adapting", recorded)
    monkeypatch.setattr("lost.training.begin.start.measure_of", recording)
    adapt("eva", "run", 1)
    assert [len(names) for names in asked] == [7, 7]
    assert main_thread() not in threads


def test_what_it_begins_by_is_planned(lost: Callable, tiny_yaml: Path) -> None:
    sizes = ("model.hidden_size=64", "model.intermediate_size=128", "model.vocab_size=320", "projection.rank=4")

    def plan(kind: str, *options: str) -> Any:
        words = [word for each in (*sizes, f"projection.kind={kind}") for word in ("--set", each)]
        return lost("plan", tiny_yaml, *words, "--backend", "torch", "--device", "cpu", *options)

    dense, lora, eva = (json.loads(plan(kind, "--json").out) for kind in ("dense", "lora", "eva"))
    assert (dense["beginning_bytes"], lora["beginning_bytes"]) == (0, 0)
    weights = eva["memory_bytes"]["weights"]
    assert eva["beginning_bytes"] > weights + 4 * dense["parameters"]["total"]
    assert "where it begins" in plan("eva").out
    assert "where it begins" not in plan("lora").out
    room = str(eva["memory_bytes"]["total"] / 2**30)
    assert plan("lora", "--memory-gib", room).code == 0
    refused = plan("eva", "--memory-gib", room)
    assert (refused.code, "beside itself" in refused.err, "fits:" in refused.out) == (2, True, False)


FEW_TOKENS = (
    "import lost.training.origin.calibration as calibration; from lost.cli.main import main\n"
    f"calibration.TOKENS = {FEW}\n"
    "main()"
)


def test_two_processes_train_the_same_run(
    adapt: Callable, bases: dict[str, Path], prepared: Dataset, tmp_path: Path
) -> None:
    """Of several kinds, whose frozen weights are in 4 bits; the first process measures what some of them begin by."""
    kinds = "{'*.o_proj': {kind: lora_sb}, '*.mlp.*': {kind: svfit}, '*.[qk]_proj': {kind: eva}}"
    sets = ("train.frozen_dtype=bfloat16", "projection.bits=4", "projection.rho=2", f"projection.overrides={kinds}")
    one = adapt("lora", "one", 3, *sets, base="wide")
    words = ("projection.kind=lora", f"projection.rank={RANK}", "schedule.steps=9", "train.stop_after=3", *sets)
    given = [word for each in (*words, "train.save_every=1", "train.keep_last=9") for word in ("--set", each)]
    done = torchrun(2, "-c", FEW_TOKENS, "train", "--init-from", bases["wide"], "--data", prepared.path,
                    "--out", tmp_path / "two", "--backend", "torch", "--device", "cpu", *given)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, array in at(tmp_path / "two", 3).parameters():
        np.testing.assert_allclose(array, dict(at(one, 3).parameters())[name], atol=1e-6, err_msg=name)
