"""`lost convert --to lost` and `lost verify`: re-written, compared, found out when wrong."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import typer

from lost import checkpoint
from lost.checkpoint import Checkpoint, TrainState, open_checkpoint
from lost.cli import main
from lost.cli.commands import convert
from lost.cli.converting.request import Request, check
from lost.config import Config
from lost.data.dataset import Dataset
from lost.errors import UserError
from lost.interop.special_tokens import with_ends
from lost.model.init import initial_values
from lost.optim import state_shapes
from lost.storage.files import atomic_dir
from lost.tokenizer import train_tokenizer

Lost = Callable[..., object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("convert")


@pytest.fixture
def run(lost: Lost, tiny_yaml: Path, prepared: Dataset, folder: Path) -> Path:
    if not (folder / "run").exists():
        done = lost("train", tiny_yaml, "--data", prepared.path, "--out", folder / "run", "--set", "schedule.steps=4")
        assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture
def source(run: Path) -> Checkpoint:
    return open_checkpoint(run / "checkpoints" / "step-00000004")


def test_other_file_sizes_change_nothing(lost: Lost, run: Path, source: Checkpoint, tmp_path: Path) -> None:
    wide = dict(source.parameters())
    answer = lost("convert", run, tmp_path / "out", "--part-mib", 1, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["optimizer"] is True
    written = open_checkpoint(tmp_path / "out")
    assert (written.config, written.progress) == (source.config, source.progress)
    assert {name: value.tobytes() for name, value in written.parameters()} == {n: v.tobytes() for n, v in wide.items()}
    assert lost("verify", tmp_path / "out").code == 0

    from lost.interop.rewrite import rewrite

    many = rewrite(source, tmp_path / "many", part_bytes=2000)
    assert len(many.files) > 20
    assert list(checkpoint.problems(many)) == []


def test_a_second_conversion_to_one_folder_waits_for_none(lost: Lost, run: Path, tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "out"):
        refused = lost("convert", run, tmp_path / "out")
        assert (refused.code, "is being written by another command" in refused.err) == (75, True), refused.err
    assert list((tmp_path / "out").iterdir()) == []


def test_bfloat16_rounds_and_says_so(lost: Lost, run: Path, source: Checkpoint, tmp_path: Path) -> None:
    assert lost("convert", run, tmp_path / "out", "--dtype", "bfloat16").code == 0
    written = open_checkpoint(tmp_path / "out")
    assert (written.config.train.param_dtype, written.config.train.dtype) == ("bfloat16", "bfloat16")
    for name, value in (*source.parameters(), *source.moments()):
        found = dict((*written.parameters(), *written.moments()))[name]
        expected = value if value.dtype == np.int32 else value.astype(ml_dtypes.bfloat16)
        assert (found.dtype, found.tobytes()) == (expected.dtype, expected.tobytes())
    assert list(checkpoint.problems(written)) == []
    losses = [json.loads(lost("eval", path, "--json").out) for path in (run, tmp_path / "out")]
    assert losses[1]["nll"] == pytest.approx(losses[0]["nll"], rel=1e-3)
    assert lost("convert", tmp_path / "out", tmp_path / "back", "--dtype", "float32").code == 0
    assert open_checkpoint(tmp_path / "back").config.train.param_dtype == "float32"


@pytest.mark.parametrize("name", ["muon", "spectron", "adamw8bit"])
def test_an_optimizer_that_keeps_float32_weights(
    lost: Lost, config: Callable[..., Config], prepared: Dataset, text_folder: Path, tmp_path: Path, name: str
) -> None:
    """Its moments aren't rounded; weights without them are, and AdamW, which takes the type, is to train them on."""
    settings = config(model={"vocab_size": 320}, optimizer={"name": name})
    moments = [(each, np.ones(shape, np.float32)) for each, shape in state_shapes(settings).items()]
    source, out = tmp_path / "source", tmp_path / "out"
    checkpoint.write(source, initial_values(settings), moments, settings, TrainState(step=3), prepared.tokenizer)
    rounded = ("--dtype", "bfloat16")
    refused = lost("convert", source, out, *rounded)
    words = f"--dtype bfloat16: optimizer.name = {name}, whose state goes along, needs float32 weights"
    assert (refused.code, words in refused.err, "--weights-only" in refused.err) == (2, True, True), refused.err
    assert not out.exists()
    (tmp_path / "other").mkdir()
    train_tokenizer([path.read_text() for path in text_folder.iterdir()], 330).save(tmp_path / "other")
    for number, options in enumerate((("--weights-only",), ("--tokenizer", tmp_path / "other"))):
        answer = lost("convert", source, tmp_path / f"{number}", *options, *rounded)
        assert answer.code == 0, answer.err
        written = open_checkpoint(tmp_path / f"{number}")
        assert list(checkpoint.problems(written)) == []
        assert (written.config.optimizer.name, written.config.train.param_dtype) == ("adamw", "bfloat16")
    assert lost("convert", source, out).code == 0
    assert open_checkpoint(out).config == settings


def test_weights_only_is_for_use(
    lost: Lost, run: Path, source: Checkpoint, tiny_yaml: Path, prepared: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "moved" / "checkpoints" / "step-00000004"
    assert lost("convert", run, out, "--weights-only").code == 0
    assert list(open_checkpoint(out).moments()) == []
    assert "weights only: training can't resume" in lost("verify", out).out
    evaluated = [json.loads(lost("eval", path, "--json").out) for path in (run, out)]
    assert [each.pop("checkpoint") for each in evaluated] == [str(source.path), str(out)]
    assert evaluated[0] == evaluated[1]
    answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "moved", "--set", "schedule.steps=4")
    assert answer.code == 2
    assert "holds no optimizer state" in answer.err


def test_nothing_is_overwritten_unasked(lost: Lost, run: Path, source: Checkpoint, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    for arguments in ((run, mine), (run, mine, "--overwrite"), (run, source.path), (run, source.path, "--overwrite")):
        answer = lost("convert", *arguments)
        assert answer.code == 2
        assert "expected a" in answer.err
    assert (mine / "thesis.txt").exists()
    assert lost("verify", run).code == 0
    assert lost("convert", run, tmp_path / "out").code == 0
    assert lost("convert", run, tmp_path / "out", "--overwrite", "--weights-only").code == 0
    (tmp_path / "out" / "notes.md").write_text("mine")
    answer = lost("convert", run, tmp_path / "out", "--overwrite")
    assert (answer.code, "holds notes.md, which would go with it" in answer.err) == (2, True), answer.err
    assert (tmp_path / "out" / "notes.md").exists()
    assert lost("convert", run, tmp_path / "other", "--to", "gguf").code == 2


def test_all_that_a_checkpoint_has_is_its_own(
    lost: Lost, config: Callable[..., Config], prepared: Dataset, tmp_path: Path
) -> None:
    """Of a model with several tokens that end a text, too, which stand in a file; a damaged one doesn't say."""
    settings, source, out = config(model={"vocab_size": 320}), tmp_path / "source", tmp_path / "out"
    tokenizer = with_ends(prepared.tokenizer, (prepared.tokenizer.end_of_text, 7))
    checkpoint.write(source, initial_values(settings), (), settings, TrainState(), tokenizer)
    for options in ((), ("--overwrite",)):
        answer = lost("convert", source, out, *options)
        assert answer.code == 0, answer.err
    assert (out / "generation_config.json").exists()
    (out / "manifest.json").write_text("{")
    answer = lost("convert", source, out, "--overwrite")
    assert (answer.code, "manifest.json is damaged" in answer.err, out.exists()) == (2, True, True), answer.err


def test_what_was_not_written_correctly_replaces_nothing(
    lost: Lost, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lost.interop import rewrite

    assert lost("convert", run, tmp_path / "out").code == 0
    before = {each.name: each.read_bytes() for each in (tmp_path / "out").iterdir()}

    def compare(*arrays: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rewrite, "compare", compare)
    assert lost("convert", run, tmp_path / "out", "--overwrite", "--weights-only").code == 130
    assert lost("convert", run, tmp_path / "other").code == 130
    assert not (tmp_path / "other").exists()
    assert {each.name: each.read_bytes() for each in (tmp_path / "out").iterdir()} == before


def test_a_source_that_is_not_there(lost: Lost, run: Path, tmp_path: Path) -> None:
    answer = lost("convert", run.with_name("runs"), tmp_path / "out")
    assert (answer.code, f"doesn't exist; did you mean {str(run)!r}?" in answer.err) == (2, True), answer.err
    answer = lost("convert", f"{run}@4", tmp_path / "out", "--weights-only", "--json")
    assert (answer.code, json.loads(answer.out)["optimizer"]) == (0, False), answer.err
    again = lost("convert", tmp_path / "out", tmp_path / "again", "--dtype", "bfloat16")
    assert (again.code, "weights in bfloat16" in again.out) == (0, True), again.out


def test_each_job_honours_an_option_or_refuses_it() -> None:
    """All that the command has, with each job: none is ignored."""
    command = typer.main.get_command(main.app).commands["convert"]  # type: ignore[attr-defined]
    parameters = [each for each in command.params if each.param_type_name == "option"]
    options = {max(each.opts, key=len) for each in parameters} - {"--to", "--from", "--help"}
    assert options <= {each for job in convert.JOBS for each in job.honoured}
    nothing = dict.fromkeys(each.name for each in fields(Request))
    for job, option in product(convert.JOBS, sorted(options)):
        request = Request(**nothing | {"given": {option: option}})
        if option in job.honoured:
            check(request, replace(job, needs=()), convert.JOBS)
        else:
            with pytest.raises(UserError, match=f"^{option} with(out)? --"):
                check(request, job, convert.JOBS)


def test_options_that_would_do_nothing(lost: Lost, run: Path, tmp_path: Path) -> None:
    for options in (("--device", "cpu"), ("--backend", "torch"), ("--device", "cpu", "--to", "hf")):
        answer = lost("convert", run, tmp_path / "out", *options)
        assert answer.code == 2
        assert f"{options[0]} {options[1]} with --to" in answer.err


def rewritten(source: Checkpoint, path: Path, **changes: np.ndarray | None) -> Checkpoint:
    """A checkpoint whose seals are right and whose content isn't."""

    def changed(arrays: object) -> list[tuple[str, np.ndarray]]:
        found = dict(arrays)  # type: ignore[call-overload]
        found |= {name: value for name, value in changes.items() if name in found}
        return [(name, value) for name, value in found.items() if value is not None]

    parts = changed(source.parameters()), changed(source.moments())
    return checkpoint.write(path, *parts, source.config, source.progress, source.tokenizer())


def test_verify_looks_inside(source: Checkpoint, tmp_path: Path) -> None:
    arrays = dict((*source.parameters(), *source.moments()))
    up, channels = "model.layers.0.mlp.up_proj.up", "model.layers.0.mlp.up_proj.channels"
    second = "model.norm.weight.exp_avg_sq"
    nan = arrays[up].copy()
    nan[0, 0] = np.nan
    for name, value, wrong in (
        (up, nan, "not finite"),
        (up, None, "1 arrays are missing"),
        (up, arrays[up][:, :-1], "expected float32"),
        (up, arrays[up].astype(ml_dtypes.bfloat16), "expected float32"),
        (channels, arrays[channels][::-1], "ascending numbers below 32"),
        (channels, arrays[channels] + 32, "ascending numbers below 32"),
        (second, -arrays[second] - 1, "negative squares"),
        (second, None, "1 arrays are missing"),
    ):
        found = list(checkpoint.problems(rewritten(source, tmp_path / "wrong", **{name: value})))
        assert len(found) == 1
        assert wrong in found[0]
    assert list(checkpoint.problems(rewritten(source, tmp_path / "right"))) == []


def test_verify_names_the_damaged_checkpoint_of_a_run(lost: Lost, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.copytree(copy / "checkpoints" / "step-00000004", copy / "checkpoints" / "step-00000005")
    (copy / "checkpoints" / "step-00000005" / "config.json").write_text("{}")
    answer = lost("verify", copy)
    assert answer.code == 2
    assert "step-00000004 is intact" in answer.out
    assert "step-00000005/config.json is 2 bytes long" in answer.out


def test_a_converted_checkpoint_beside_a_runs_own_is_not_taken_for_one(lost: Lost, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert lost("convert", copy, copy / "checkpoints" / "step-00000004-bf16", "--dtype", "bfloat16").code == 0
    answer = lost("train", copy, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["step"] == 4


def test_places_where_nothing_can_be_written(lost: Lost, run: Path, tiny_yaml: Path) -> None:
    for out in (tiny_yaml / "sub", Path("/proc/lost")):
        answer = lost("convert", run, out)
        assert answer.code == 2
        assert "could not be written" in answer.err
