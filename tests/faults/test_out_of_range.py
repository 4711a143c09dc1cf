"""Numbers that a model can't look up: refused before a backend sees them, which might read foreign memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from lost.checkpoint import open_checkpoint
from lost.config import Config
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.engine import BACKENDS, create_engine
from lost.errors import CheckpointError, DataError
from lost.model.init import initial_values
from lost.model.parameters import parameter_table
from lost.storage.files import read_sealed_json, seal, sealed_json
from lost.tokenizer import train_tokenizer

Lost = Callable[..., Any]
EACH_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
UP = "model.layers.0.mlp.up_proj"
WRONG = {"beyond": [3, 99], "negative": [-1, 3], "twice": [3, 3], "descending": [5, 3], "wide": [3, 2**31 - 1]}


def spoilt(values: np.ndarray, wrong: list[int]) -> np.ndarray:
    """Places of which the last two are wrong."""
    return np.array([*range(len(values) - 2), *wrong] if min(wrong) >= 0 else [*wrong, *values[2:]], values.dtype)


@EACH_BACKEND
@pytest.mark.parametrize("kind", ["lost", "sltrain"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_places_an_engine_is_given(config: Callable[..., Config], backend: str, kind: str, wrong: list[int]) -> None:
    model = config(projection={"kind": kind})
    table = parameter_table(model)
    name = f"{UP}.{'channels' if kind == 'lost' else 'indices'}"
    scale = 1 if kind == "lost" else table[name].below // 16
    wrong = [each * scale if 0 <= each < 2**20 else each for each in wrong]
    values = [(each, spoilt(array, wrong) if each == name else array) for each, array in initial_values(model)]
    with pytest.raises(CheckpointError, match=f"{name} doesn't hold ascending numbers"):
        create_engine(model, backend, "cpu").load(values)


@EACH_BACKEND
def test_types_an_engine_is_given(config: Callable[..., Config], backend: str) -> None:
    values = dict(initial_values(config()))
    for name, dtype in ((f"{UP}.channels", np.float32), (f"{UP}.up", np.int32), (f"{UP}.up", np.float64)):
        spoilt = {**values, name: values[name].astype(dtype)}
        with pytest.raises(CheckpointError, match=f"{name} is {np.dtype(dtype).name}; expected"):
            create_engine(config(), backend, "cpu").load(spoilt.items())
    with pytest.raises(CheckpointError, match=f"{UP}.up is there twice"):
        create_engine(config(), backend, "cpu").load([*values.items(), (f"{UP}.up", values[f"{UP}.up"])])


@EACH_BACKEND
@pytest.mark.parametrize("token", [-1, 19, 2**30])
def test_tokens_an_engine_is_given(config: Callable[..., Config], backend: str, token: int) -> None:
    """In a step, an evaluation, a question and a prompt; as input, or as what is to be predicted."""
    engine = create_engine(config(), backend, "cpu")
    engine.load(initial_values(config()))
    for place in (2, 8):
        batch = Batch(np.zeros((2, 9), np.int32))
        batch.tokens[1, place] = token
        for ask in (
            lambda b: engine.step([b], 16, 0.01),
            lambda b: engine.evaluate([b]),
            lambda b: list(engine.score([b])),
        ):
            with pytest.raises(DataError, match="expected ids from 0 to 18"):
                ask(batch)
    with pytest.raises(DataError, match="expected ids from 0 to 18"):
        list(engine.generate([0, token], lambda logits: 0, 3))


@pytest.fixture
def refused(
    lost: Lost, run: Path, whole: Path, prepared: Dataset, tmp_path: Path, reseal: Callable[..., None]
) -> Callable[..., None]:
    """Change an array of the newest checkpoint, sealed as a stranger would: every command that reads it refuses it."""

    def check(name: str, change: Callable[[np.ndarray], np.ndarray], words: str, *convert: str) -> None:
        newest = run / "checkpoints" / "step-00000020"
        arrays = safetensors.numpy.load_file(newest / "model-00001.safetensors")
        arrays[name] = change(arrays[name])
        safetensors.numpy.save_file(arrays, newest / "model-00001.safetensors")
        reseal(newest)
        tuned = ("--init-from", newest, "--out", tmp_path / "tuned")
        for command in (
            ("eval", newest, "--data", prepared.path),
            ("generate", newest, "--prompt", "a"),
            ("inspect", newest),
            ("verify", newest),
            ("convert", newest, tmp_path / "out", *convert),
            ("train", whole / "tiny.yaml", "--data", prepared.path, *tuned),
        ):
            answer = lost(*command)
            assert (answer.code, f"{name} {words}" in answer.err + answer.out) == (2, True), (command, answer.err)

    return check


def test_a_checkpoint_with_weights_that_are_not_finite(refused: Callable[..., None]) -> None:
    def change(array: np.ndarray) -> np.ndarray:
        array[0, 0] = np.nan
        return array

    refused(f"{UP}.up", change, "holds numbers that are not finite", "--grow", "rank=16")


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_checkpoint_with_places_out_of_range(
    lost: Lost, run: Path, whole: Path, prepared: Dataset, refused: Callable[..., None], wrong: list[int]
) -> None:
    """A run goes on from the one before."""
    newest = run / "checkpoints" / "step-00000020"
    refused(f"{UP}.channels", lambda array: spoilt(array, wrong), "doesn't hold ascending numbers below 32")
    with pytest.raises(CheckpointError, match="ascending"):  # whoever doesn't verify it first
        list(open_checkpoint(newest).parameters())
    again = lost("train", whole / "tiny.yaml", "--data", prepared.path, "--out", run)
    assert again.code == 0, again.err
    assert "from step 10" in again.out


@pytest.mark.parametrize(
    ("guard", "words"),
    [
        ({"skipped": 21}, "guard.skipped = 21, at step 20; expected no more"),
        ({"skipped": 3, "in_a_row": 4}, "guard.in_a_row = 4, of guard.skipped = 3; expected no more"),
    ],
)
def test_more_skipped_updates_than_steps(
    lost: Lost, run: Path, whole: Path, prepared: Dataset, reseal: Callable[..., None], guard: dict, words: str
) -> None:
    """Optimizers correct their moments by the number of updates: of a negative one no weight would stay a number."""
    newest = run / "checkpoints" / "step-00000020"
    reseal(newest, lambda manifest: manifest["guard"].update(guard))
    for command in (("eval", newest, "--data", prepared.path), ("verify", run)):
        answer = lost(*command)
        assert (answer.code, words in answer.err + answer.out) == (2, True), (command, answer.err + answer.out)
    again = lost("train", whole / "tiny.yaml", "--data", prepared.path, "--out", run)
    assert (again.code, "from step 10" in again.out) == (0, True), again.err


def test_a_tokenizer_larger_than_the_model(
    lost: Lost, run: Path, prepared: Dataset, text_folder: Path, reseal: Callable[..., None]
) -> None:
    """Its fingerprint put right too, as a stranger would."""
    newest = run / "checkpoints" / "step-00000020"
    larger = train_tokenizer([path.read_text() for path in text_folder.iterdir()], 330)
    larger.save(newest)
    for change in (lambda manifest: None, lambda manifest: manifest.update(tokenizer=larger.fingerprint)):
        reseal(newest, change)
        for command in (
            ("generate", newest, "--prompt", "a"),
            ("eval", newest, "--text", text_folder),
            ("verify", newest),
        ):
            answer = lost(*command)
            assert answer.code == 2, command
            assert (
                "not the tokenizer of the run" in answer.err + answer.out or "ids up to 329" in answer.err + answer.out
            )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(dtype="int16"), "dtype"),
        (lambda d: d.update(dtype="float32"), "dtype"),
        (lambda d: d.pop("splits"), "splits"),
        (lambda d: d["splits"]["train"].pop("files"), "splits.train.files"),
        (lambda d: d["splits"]["train"].update(files=[]), "splits.train.files"),
        (lambda d: d["splits"]["train"].update(tokens=10**9), "not of that size"),
        (lambda d: d["splits"]["train"]["files"][0].update(name="../data/train-00000.bin"), "files.0.name"),
        (lambda d: d["splits"]["train"]["files"][0].update(size="12"), "files.0.size"),
        (lambda d: d.update(tokenizer=None), "tokenizer"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_description_that_describes_no_set(
    lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, change: Any, words: str, more: tuple[str, ...]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in prepared.path.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    description = read_sealed_json(data / "dataset.json")
    change(description)
    (data / "dataset.json").write_bytes(sealed_json(description))
    answer = lost("train", tiny_yaml, "--data", data, "--out", tmp_path / "run", *more)
    assert answer.code == 2, answer.err
    assert words in answer.err
    assert "no prepared set" in answer.err


@EACH_BACKEND
def test_ids_beyond_the_vocabulary_in_a_set(
    lost: Lost, run: Path, prepared: Dataset, tmp_path: Path, backend: str
) -> None:
    """The validation text of a set that a broken tool made and sealed."""
    data = tmp_path / "data"
    data.mkdir()
    for path in prepared.path.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    shard = data / "valid-00000.bin"
    tokens = np.fromfile(shard, "<u2")
    tokens[5] = 40_000
    tokens.tofile(shard)
    description = read_sealed_json(data / "dataset.json")
    description["splits"]["valid"]["files"][0]["sha256"] = seal(shard.read_bytes())["sha256"]
    (data / "dataset.json").write_bytes(sealed_json(description))
    answer = lost("eval", run, "--data", data, "--backend", backend)
    assert answer.code == 2
    assert "token id 40000" in answer.err
