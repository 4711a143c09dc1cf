"""Adapters taken out for PEFT: what is written, on which base model, and what PEFT could not open as it is."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from adaptations import RANK, at, scores, scores_of_peft
from safetensors.numpy import load_file, save_file

from lost.data.dataset import Dataset
from lost.interop.to_peft import _complete
from lost.storage.tensors import read_tensors


@pytest.mark.parametrize("kind", ["lora", "pissa"])
def test_taken_out_for_peft(
    adapt: Callable, bases: dict[str, Path], lost: Callable, logits: Callable, tmp_path: Path, kind: str
) -> None:
    """PEFT opens it on the base model, and gives our logits: by its own code where it is installed."""
    run = adapt(kind, "run", 3, "projection.overrides={'*.down_proj': {rank: 2, alpha: 6}}")
    assert lost("convert", bases["dense"], tmp_path / "base", "--to", "hf").code == 0
    answer = lost("convert", run, tmp_path / "adapter", "--to", "peft", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["difference"] < 1e-4
    assert f"lost convert {at(bases['dense'], 2).path} BASE --to hf" in answer.err
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert described["r"] == (RANK if kind == "lora" else 2 * RANK)
    assert len(described["rank_pattern"]) == len(described["alpha_pattern"]) == 2  # `down` of two blocks
    assert described["base_model_name_or_path"] is None
    found = scores_of_peft(tmp_path / "base", tmp_path / "adapter")
    np.testing.assert_allclose(found, scores(at(run, 3), "torch", logits), atol=2e-5)


@pytest.fixture
def begun_on_an_export(
    lost: Callable, bases: dict[str, Path], prepared: Dataset, tiny_yaml: Path, tmp_path: Path
) -> Callable[[str], Path]:
    """Train adapters of a kind on an export of the dense model, which is returned."""

    def call(kind: str) -> Path:
        base, sets = tmp_path / "base", (f"projection.kind={kind}", "projection.rank=4", "schedule.steps=2")
        assert lost("convert", bases["dense"], base, "--to", "hf").code == 0
        text = tiny_yaml.read_text()
        tiny_yaml.write_text(text[text.index("data:") :])
        place = ("--data", prepared.path, "--out", tmp_path / "run")
        answer = lost("train", tiny_yaml, *sets, "--init-from", base, *place)
        assert answer.code == 0, answer.err
        return base

    return call


def test_the_base_is_named_where_peft_opens_it(
    lost: Callable, begun_on_an_export: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a path of this machine, with which adapters aren't published."""
    base = begun_on_an_export("pissa")
    assert lost("convert", tmp_path / "run", tmp_path / "adapter", "--to", "peft").code == 0
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(base.resolve())
    assert str(tmp_path) not in (tmp_path / "adapter" / "README.md").read_text()
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    pushed = lost("convert", tmp_path / "run", tmp_path / "third", "--to", "peft", "--push", "me/mine")
    assert (pushed.code, f"is none of the hub, but {base.resolve()}" in pushed.err) == (2, True), pushed.err
    assert not (tmp_path / "third").exists()
    for change in (trained_further, lambda folder: folder.rename(tmp_path / "elsewhere")):
        change(base)
        gone = lost("convert", tmp_path / "run", tmp_path / "second", "--to", "peft")
        assert gone.code == 2
        assert "the base model isn't where the run began with it" in gone.err


def test_a_base_that_has_changed_is_not_named(
    lost: Callable, begun_on_an_export: Callable[[str], Path], tmp_path: Path
) -> None:
    """PEFT would open what is there now, and compute something else."""
    trained_further(begun_on_an_export("lora"))
    answer = lost("convert", tmp_path / "run", tmp_path / "adapter", "--to", "peft")
    assert answer.code == 0, answer.err
    assert "or has other weights now" in " ".join(answer.err.split())
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] is None


def test_one_layer_is_held_at_a_time(adapt: Callable) -> None:
    """Wide, all of a large model's take several times the memory that training took."""
    checkpoint, read = at(adapt("lora", "run", 1), 1), []
    arrays = ((read.append(name) or name, array) for name, array in checkpoint.parameters())
    source: Any = SimpleNamespace(config=checkpoint.config, parameters=lambda: arrays)
    assert next(len(values) for _, values in _complete(source) if len(values) > 1) == 3
    assert len(read) < len(dict(checkpoint.parameters())) / 4


def trained_further(folder: Path) -> None:
    """Write other weights where they stood, as an export of the trained model does."""
    file = folder / "model.safetensors"
    save_file({name: array + np.float32(0.5) for name, array in load_file(file).items()}, file, {"format": "pt"})


def test_a_base_that_rotates_otherwise_is_refused(
    adapt: Callable, lost: Callable, bases: dict[str, Path], prepared: Dataset, tmp_path: Path
) -> None:
    """PEFT would open the base as it is, with its frequencies; of one that isn't there, what it must have is said."""
    run = adapt("lora", "run", 1, "model.rope_theta=5e5")
    answer = lost("convert", run, tmp_path / "adapter", "--to", "peft")
    said = " ".join(answer.err.split())
    assert answer.code == 2, answer.err
    assert f"model.rope_theta = 500000.0, and 10000.0 in the base model {at(bases['dense'], 2).path}" in said
    assert "--to hf or dense" in said
    assert not (tmp_path / "adapter").exists()
    base = Path(shutil.copytree(bases["dense"], tmp_path / "base"))
    words = ("projection.kind=lora", "projection.rank=2", "schedule.steps=2", "model.rope_theta=5e5")
    begun = lost("train", "--init-from", base, "--data", prepared.path, "--out", tmp_path / "second",
                 *(word for each in words for word in ("--set", each)))  # fmt: skip
    assert begun.code == 0, begun.err
    base.rename(tmp_path / "elsewhere")
    answer = lost("convert", tmp_path / "second", tmp_path / "adapter", "--to", "peft")
    assert answer.code == 0, answer.err
    assert "rope_theta = 500000.0 in its config.json" in " ".join(answer.err.split())


@pytest.mark.parametrize("rounded", ["train.frozen_dtype=bfloat16", "train.param_dtype=bfloat16"])
def test_a_moved_base_that_was_rounded_is_refused(
    adapt: Callable, lost: Callable, tmp_path: Path, rounded: str
) -> None:
    """No pair of rank 2 r is what rounding took; merged it is a model like any."""
    run = adapt("pissa", "run", 1, rounded, "train.dtype=bfloat16")
    answer = lost("convert", run, tmp_path / "adapter", "--to", "peft")
    said = " ".join(answer.err.split())
    assert answer.code == 2, answer.err
    assert "has moved (pissa), and is rounded to bfloat16" in said
    assert "--to dense" in said
    assert lost("convert", run, tmp_path / "dense", "--to", "dense").code == 0


def test_factors_are_rounded_where_that_is_asked_for(
    adapt: Callable, lost: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much that changes is said; anything else in the file is refused, however little."""
    run = adapt("lora", "run", 3, "optimizer.lr=0.5")
    answer = lost("convert", run, tmp_path / "adapter", "--to", "peft", "--dtype", "bfloat16", "--json")
    assert answer.code == 0, answer.err
    exact = json.loads(lost("convert", run, tmp_path / "exact", "--to", "peft", "--json").out)["difference"]
    assert max(1e-5, 10 * exact) < json.loads(answer.out)["difference"] < 0.1
    written = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    pairs = {name: each for name, each in at(run, 3).parameters() if name.endswith((".down", ".up"))}
    assert len(written) == len(pairs)
    for name, each in pairs.items():
        layer, _, side = name.rpartition(".")
        theirs = written[f"base_model.model.{layer}.lora_{'A' if side == 'down' else 'B'}.weight"]
        assert theirs.tobytes() == each.astype(ml_dtypes.bfloat16).tobytes()

    def damaged(paths: Sequence[Path]) -> Iterator[tuple[str, np.ndarray]]:
        for name, array in read_tensors(paths):
            yield name, (array * (1 + 2**-7)).astype(array.dtype)

    monkeypatch.setattr("lost.interop.to_peft.read_tensors", damaged)
    answer = lost("convert", run, tmp_path / "second", "--to", "peft", "--dtype", "bfloat16")
    assert (answer.code, "not written correctly" in answer.err) == (2, True), answer.err
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("base", "sets", "expected"),
    [
        ("dense", None, "the run has no adapters"),
        ("dense", ["projection.train_rest=true"], "more than the adapters was trained"),
        ("rich", [], "the layers of a plain Llama or Qwen3"),
    ],
)
def test_not_for_peft(
    adapt: Callable, lost: Callable, bases: dict[str, Path], tmp_path: Path, base: str, sets: list[str] | None,
    expected: str,
) -> None:  # fmt: skip
    run = bases[base] if sets is None else adapt("lora", "run", 1, *sets, base=base)
    answer = lost("convert", run, tmp_path / "adapter", "--to", "peft")
    assert answer.code == 2
    assert expected in " ".join(answer.err.split())
