"""What `lost convert` exported, given to every command that takes a model: it is the run's, to the bit."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from lost.checkpoint import open_checkpoint
from lost.data.dataset import Dataset

KINDS = {
    "lost": ["projection.learn_gamma=true", "model.use_qk_norm=true", "projection.short_conv_width=3"],
    "dense": ["projection.kind=dense", "model.attention_bias=true"],
    "normed": ["projection.kind=dense", "model.attention_bias=true", "model.use_qk_norm=true"],
    "mixed": ["projection.kind=sltrain", 'projection.overrides={"*.mlp.*": {"kind": "cola", "activation": "gelu"}}'],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def exported(
    lost: Callable, runs: Path, prepared: Dataset, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[Path, Path]]:
    """Makes, once, a run of a kind and its export, which others' libraries needn't check here."""
    for reader in ("lost.backends.torch.reader", "lost.backends.mlx.reader"):
        monkeypatch.setitem(sys.modules, reader, None)

    def make(kind: str) -> tuple[Path, Path]:
        run, out = runs / kind, runs / f"{kind}-export"
        if not out.exists():
            settings = (word for each in (*KINDS[kind], "schedule.steps=6") for word in ("--set", each))
            done = lost("train", tiny_yaml, "--data", prepared.path, "--out", run, *settings)
            assert done.code == 0, done.err
            assert lost("convert", run, out, "--to", "hf").code == 0
        return run, out

    return make


def answered(lost: Callable, *arguments: object) -> dict:
    done = lost(*arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_takes_it(
    lost: Callable, exported: Callable, prepared: Dataset, tmp_path: Path, kind: str
) -> None:
    run, out = exported(kind)
    figures = [answered(lost, "eval", each, "--data", prepared.path) for each in (run, out)]
    assert [each.pop("checkpoint") for each in figures] == [str(run / "checkpoints" / "step-00000006"), str(out)]
    for each in figures:
        each.pop("batch_size")  # an export doesn't know the run's, and sums of other batches are rounded otherwise
    for name, value in figures[0].items():  # with the run's own windows
        assert figures[1][name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name
    said = [answered(lost, "generate", each, "--prompt", "the rank", "--max-tokens", 8) for each in (run, out)]
    assert said[0]["token_ids"] == said[1]["token_ids"]  # libraries differ in how they show half a character
    layers = [answered(lost, "inspect", each) for each in (run, out)]
    assert layers[0]["parameters"] == layers[1]["parameters"]
    assert layers[1]["bytes"] == (out / "model.safetensors").stat().st_size
    named = [[{**each, "kind": ""} for each in both["layers"]] for both in layers]
    assert named[0] == named[1]
    answered(lost, "convert", out, tmp_path / "back", "--from", "hf")
    own = dict(open_checkpoint(run / "checkpoints" / "step-00000006").parameters())
    back = dict(open_checkpoint(tmp_path / "back").parameters())
    assert {name: (each.dtype, each.tobytes()) for name, each in own.items()} == {
        name: (each.dtype, each.tobytes()) for name, each in back.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_training_begins_with_it(
    lost: Callable, exported: Callable, prepared: Dataset, tiny_yaml: Path, tmp_path: Path, kind: str
) -> None:
    """With the data that the run had, whose tokenizer is the same in another file; and with the recipe that it had."""
    run, out = exported(kind)
    settings = [word for each in (*KINDS[kind], "train.stop_after=1") for word in ("--set", each)]
    command = ("train", tiny_yaml, *settings, "--data", prepared.path)
    done = lost(*command, "--init-from", out, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    begun = open_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000000")
    own = open_checkpoint(run / "checkpoints" / "step-00000006")
    assert begun.tokenizer().FILE == "tokenizer.model"
    for (name, first), (other, second) in zip(begun.parameters(), own.parameters(), strict=True):
        assert (name, first.tobytes()) == (other, second.tobytes())
    refused = lost(*command, "--set", "model.rms_norm_eps=1e-3", "--init-from", out, "--out", tmp_path / "other")
    assert (refused.code, "model.rms_norm_eps = 0.001" in refused.err) == (2, True)


def test_plain_matrices_under_names_of_our_own_are_decomposed(
    lost: Callable, exported: Callable, tmp_path: Path
) -> None:
    """Norms on queries and keys beside biases: no class of others has both, so layer and norm are parts of one."""
    run, out = exported("normed")
    own = dict(open_checkpoint(run / "checkpoints" / "step-00000006").parameters())
    for option, amount in (("--rank", 4), ("--budget", 0.996)):
        done = lost("convert", out, tmp_path / option, "--from", "hf", option, amount)
        assert done.code == 0, done.err
        found = dict(open_checkpoint(tmp_path / option).parameters())
        assert any(name.endswith(".down") for name in found)
        kept = [name for name in found if name.endswith((".bias", "_norm.weight", "norm.weight"))]
        assert {"model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.q_proj.bias"} <= {*kept}
        assert all(found[name].tobytes() == own[name].tobytes() for name in kept)


def test_another_tokenizer_is_refused_still(
    lost: Callable, exported: Callable, text_folder: Path, tiny_yaml: Path, tmp_path: Path
) -> None:
    """One of the same size, from other text; the one of the export, named to prepare, is taken."""
    _, out = exported("lost")
    texts = [text_folder / "007.txt", text_folder / "008.txt"]
    for name, by in (("other", ("--vocab-size", 320)), ("same", ("--tokenizer", out))):
        made = lost("prepare", *texts, *by, "--valid-fraction", 0.5, "--out", tmp_path / f"{name}-data")
        assert made.code == 0, made.err
    settings = [word for each in KINDS["lost"] for word in ("--set", each)]
    command = ("train", tiny_yaml, *settings, "--init-from", out, "--out", tmp_path / "run", "--dry-run", "--data")
    assert "another tokenizer" in lost(*command, tmp_path / "other-data").err
    assert lost(*command, tmp_path / "same-data").code == 0
    assert "another tokenizer" in lost("eval", out, "--data", tmp_path / "other-data").err


def test_a_folder_that_others_wrote_is_evaluated(lost: Callable, exported: Callable, text_folder: Path) -> None:
    """It has no data of its own, and says so."""
    run, out = exported("dense")
    text = ("--text", text_folder / "007.txt", "--context", 16)
    assert answered(lost, "eval", out, *text)["nll"] == answered(lost, "eval", run, *text)["nll"]
    refused = lost("eval", out)
    assert (refused.code, "names no data" in refused.err) == (2, True)


def test_a_strangers_export_is_refused(lost: Callable, exported: Callable, tmp_path: Path) -> None:
    """Nothing in it is executed, and no number of it leads out of the model."""
    _, out = exported("lost")
    described = json.loads((out / "config.json").read_text())
    arrays = load_file(out / "model.safetensors")
    channels = next(name for name in arrays if name.endswith(".channels"))
    wrong_channels = {**arrays, channels: arrays[channels] + 1000}
    stored, gated = described["projections"], {**described["projections"]["mlp.up_proj"], "gate_activation": False}
    for change, content, words in (
        ({"lost_seq_len": 10**9}, arrays, "lost_seq_len = 1000000000"),
        ({"num_hidden_layers": 10**9}, arrays, "num_hidden_layers = 1000000000"),
        ({"projections": {**stored, "mlp.up_proj": gated}}, arrays, "describes no layer of ours"),
        ({"projections": "all"}, arrays, "describes an impossible model"),
        ({}, wrong_channels, "doesn't hold ascending numbers below"),
        ({}, {**arrays, channels: arrays[channels].astype("float32")}, "has type F32; expected I32"),
    ):
        folder = tmp_path / "folder"
        shutil.copytree(out, folder)
        (folder / "modeling_lost.py").write_text("raise SystemExit('executed')")
        (folder / "config.json").write_text(json.dumps({**described, **change}))
        save_file(content, folder / "model.safetensors")
        done = lost("generate", folder, "--max-tokens", 1)
        assert (done.code, words in done.err) == (2, True), done.err
        shutil.rmtree(folder)


def test_what_it_is_taken_for(lost: Callable, exported: Callable, tmp_path: Path) -> None:
    """Each command that can't take it says which one can."""
    run, out = exported("lost")
    for arguments, words in (
        ((out, tmp_path / "x"), "CHECKPOINT --from hf`"),
        ((out, tmp_path / "x", "--from", "hf", "--rank", 4), "expected plain matrices"),
        ((run / "checkpoints" / "step-00000006", tmp_path / "x", "--from", "hf"), "is of a checkpoint of `lost train`"),
    ):
        done = lost("convert", *arguments)
        assert (done.code, words in done.err) == (2, True), done.err
