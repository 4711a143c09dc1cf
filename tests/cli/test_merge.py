"""`lost merge`: averages of checkpoints, and what isn't averaged."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exports import checkpoint_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lost.checkpoint import MANIFEST, Checkpoint, TrainState, checkpoint_path, open_checkpoint, problems, write
from lost.config import Config
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.engine import BACKENDS, backend_module, create_engine
from lost.errors import CheckpointError
from lost.interop.source import open_source
from lost.interop.special_tokens import imported
from lost.model import reference
from lost.model.init import initial_values
from lost.model.parameters import parameter_table
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.reshape.merge import Part, averaged, mean, write_merged
from lost.training.origin.init_from import begin_with

SMALL = {"vocab_size": 320}
KINDS = {
    "lost": {"short_conv_width": 3, "learn_gamma": True},
    "cola": {"kind": "cola"},
    "sltrain": {"kind": "sltrain"},
    "mixed": {"kind": "lowrank", "overrides": {"*.0.mlp.*": {"kind": "lost"}, "*.q_proj": {"kind": "dense"}}},
}
HOST = {"use_qk_norm": True, "attention_bias": True, "tie_word_embeddings": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("merge")


@pytest.fixture
def run(lost: Callable, tiny_yaml: Path, prepared: Dataset, folder: Path) -> Path:
    if not (folder / "run").exists():
        options = ("--set", "train.save_every=5", "--set", "train.keep_every=5", "--backend", "torch")
        done = lost("train", tiny_yaml, "--data", prepared.path, "--out", folder / "run", *options)
        assert done.code == 0, done.err
    return folder / "run"


def moved(source: Checkpoint, path: Path, by: float, dataset: Dataset) -> Checkpoint:
    """The same model somewhat later."""
    draw = np.random.default_rng(1)
    arrays = [
        (name, array if array.dtype == np.int32 else array + draw.normal(0, by, array.shape).astype(np.float32))
        for name, array in source.parameters()
    ]
    return write(path, arrays, (), source.config, TrainState(step=5), dataset.tokenizer)


def exact(source: Checkpoint) -> dict[str, np.ndarray]:
    return {name: a if a.dtype == np.int32 else a.astype(np.float64) for name, a in source.parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_model_with_itself_it_is_that_model(
    lost: Callable, config: Callable[..., Config], prepared: Dataset, tmp_path: Path, kind: str
) -> None:
    """To the bit, whatever its layers, norms and biases; with Fisher information too."""
    settings = config(model={**SMALL, **HOST}, projection=KINDS[kind])
    source = checkpoint_of(settings, tmp_path / "a", prepared)
    path, text = source.path, tmp_path / "text.txt"
    text.write_text("the rank of a layer")
    for name, options in {"thirds": (path, "--weights", ".33,.33,.33"), "fisher": ("--by", "fisher", "--text", text),
                          "unequal": ("--weights", "0.9,0.1")}.items():  # fmt: skip
        answer = lost("merge", path, path, *options, tmp_path / name, "--json")
        assert answer.code == 0, answer.err
        found = {name: array.tobytes() for name, array in open_checkpoint(tmp_path / name).parameters()}
        assert found == {name: array.tobytes() for name, array in source.parameters()}
        assert max(each["gap"] for each in json.loads(answer.out)["layers"]) < 1e-12


def test_the_tail_of_a_run(lost: Callable, run: Path, prepared: Dataset, tmp_path: Path) -> None:
    """Averaged entry by entry, its origin told; taken by all that takes weights, and refused by what needs moments."""
    out = tmp_path / "tail"
    answer = lost("merge", f"{run}@10", f"{run}@15", run, out, "--weights", "0.25,.25,0.5", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert [(each["step"], each["share"]) for each in told["parts"]] == [(10, 0.25), (15, 0.25), (20, 0.5)]
    assert 0 < max(each["gap"] for each in told["layers"]) < 0.5
    parts = [open_checkpoint(checkpoint_path(run / "checkpoints", step)) for step in (10, 15, 20)]
    wanted = [exact(each) for each in parts]
    written = open_checkpoint(out)
    for name, array in written.parameters():
        mean = sum(share * each[name] for share, each in zip((0.25, 0.25, 0.5), wanted, strict=True))
        np.testing.assert_array_equal(array, mean.astype(array.dtype))
    assert list(problems(written)) == []
    origin = written.progress.origin
    assert origin is not None
    assert [(each.path, each.step, each.share) for each in origin.parts] == [
        (str(each.path), step, share) for each, step, share in zip(parts, (10, 15, 20), (0.25, 0.25, 0.5), strict=True)
    ]
    assert len({each.fingerprint for each in origin.parts}) == 3
    assert (written.progress.step, written.progress.data) == (20, parts[0].progress.data)
    assert f"the average of 0.25 x {parts[0].path} and" in lost("inspect", out).out
    assert lost("eval", out, "--backend", "torch").code == 0
    assert lost("generate", out, "--backend", "torch", "--max-tokens", "2", "--prompt", "the").code == 0
    begun = lost("train", run / "config.yaml", "--data", prepared.path, "--init-from", out, "--out", tmp_path / "on",
                 "--set", "schedule.steps=3", "--backend", "torch")  # fmt: skip
    assert begun.code == 0, begun.err
    assert "the average of" in lost("inspect", tmp_path / "on").out
    refused = lost("train", "--branch-from", out, "--out", tmp_path / "no")
    assert (refused.code, "it holds weights" in refused.err) == (2, True)


def test_two_branches_of_one_run(lost: Callable, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lost.interop.to_hf.folder.READERS", {})  # what is opened is as elsewhere; here, what is said
    for name, rate in (("a", "1e-2"), ("b", "2e-2")):
        done = lost("train", "--branch-from", f"{run}@10", "--out", tmp_path / name, "--set", f"optimizer.lr={rate}",
                    "--backend", "torch")  # fmt: skip
        assert done.code == 0, done.err
    answer = lost("merge", tmp_path / "a", tmp_path / "b", tmp_path / "ab")
    assert answer.code == 0, answer.err
    before = [each.before for each in open_checkpoint(tmp_path / "ab").progress.origin.parts]  # type: ignore[union-attr]
    assert [(each.step, each.path.endswith("step-00000010")) for each in before] == [(10, True)] * 2  # type: ignore[union-attr]
    made = lost("convert", tmp_path / "ab", tmp_path / "hf", "--to", "hf", "--backend", "torch")
    assert made.code == 0, made.err
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "Its weights are the average of 2 checkpoints" in card


def begun(path: Path, folder: Path, dataset: Dataset) -> Path:
    """The first checkpoint of a run that begins with weights."""
    source = open_source(path)
    return begin_with(source, source.config, folder, dataset, False, lambda names: {}).path


def test_rounds_of_branches_and_averages(config: Callable[..., Config], prepared: Dataset, tmp_path: Path) -> None:
    """However many there were, a manifest says as much of them: who averages a year long opens the last one too."""
    merged = checkpoint_of(config(model=SMALL), tmp_path / "start", prepared).path
    sizes = []
    for turn in range(12):
        paths = [begun(merged, tmp_path / f"{turn}-{number}", prepared) for number in range(4)]
        parts = [Part(open_checkpoint(path), 1 / 4) for path in paths]
        before, merged = merged, tmp_path / f"merged-{turn}"
        written = write_merged(parts, merged, parts[0].checkpoint.config, averaged(parts))
        sizes.append((merged / MANIFEST).stat().st_size)
        origin = written.progress.origin
        assert origin
        assert [each.path for each in origin.parts] == [str(each) for each in paths]
        assert [each.before.path for each in origin.parts if each.before] == [str(before)] * 4
        assert not imported(written.progress)
    assert sizes[-1] < sizes[0] + 12 * 4 * 500


def test_a_long_line_of_runs(lost: Callable, config: Callable[..., Config], prepared: Dataset, tmp_path: Path) -> None:
    """The newest are named, and the first, by which an imported model is known."""
    settings, first = config(model=SMALL), tmp_path / "imported"
    path = write(first, initial_values(settings), (), settings, TrainState(), prepared.tokenizer).path
    for number in range(120):
        path = begun(path, tmp_path / str(number), prepared)
    assert (path / MANIFEST).stat().st_size < 64 << 10
    assert imported(open_checkpoint(path).progress)
    told = lost("inspect", path)
    assert told.code == 0, told.err
    lines = [line for line in told.out.splitlines() if line.startswith(("started with", "("))]
    assert lines[0] == f"started with the weights of {tmp_path / '118' / 'checkpoints' / 'step-00000000'}"
    assert lines[-2:] == ["(103 more between, which aren't named any more)", f"started with the weights of {first}"]
    assert len(lines) == 18


def test_strangers_are_refused(
    lost: Callable, config: Callable[..., Config], prepared: Dataset, text_folder: Path, tmp_path: Path
) -> None:
    """Each is named, with what to do; nothing is written."""

    def source(name: str, data: Dataset = prepared, **sections: dict) -> Path:
        sections["model"] = {**SMALL, **sections.get("model", {})}
        return checkpoint_of(config(**sections), tmp_path / name, data).path

    def tokens_of_its_own() -> Dataset:
        (tmp_path / "own.txt").write_text("\n".join(f"quite {n} other words zebra {n * 7}" for n in range(400)))
        prepare(Sources([tmp_path / "own.txt"]), tmp_path / "data", 320, 0.1)
        return Dataset(tmp_path / "data")

    first, cola = source("first"), source("cola", projection={"kind": "cola"})
    hf = tmp_path / "hf"
    hf.mkdir()
    (hf / "config.json").write_text("{}")
    seeded = {"train": {"seed": 1}}
    own = {"*.q_proj": {"rank": 2}}
    ranks = [source(f"own{rank}", projection={"overrides": {**own, "*.k_proj": {"rank": rank}}}) for rank in (2, 3)]
    every, one = {"*": {"gamma": 0.5}}, {"*.q_proj": {"gamma": 0.6}}
    orders = [source(f"order{n}", projection={"overrides": each}) for n, each in enumerate((every | one, one | every))]
    for named, words in (
        (tuple(orders), "projection.overrides, in order = ['*.q_proj', '*'], not ['*', '*.q_proj']"),
        ((first, source("wide", model={"intermediate_size": 32})), "model.intermediate_size = 32, not 24"),
        ((first, source("rank", projection={"rank": 3})), "projection.rank = 3, not 4"),
        ((first, source("rank2", projection={"rank": 3})), "with --as-dense RANK"),
        (tuple(ranks), "own2: projection.overrides['*.k_proj'] = {'rank': 3}, not {'rank': 2}. Expected"),
        ((first, source("gamma", projection={"gamma": 0.6})), "projection.gamma = 0.6, not 0.7"),
        ((first, source("seed", **seeded)), "model.layers.0.self_attn.q_proj.channels"),
        ((cola, source("cola2", projection={"kind": "cola"}, **seeded)), "didn't begin as"),
        ((first, source("tokens", data=tokens_of_its_own())), "another tokenizer than"),
        ((first,), "one model; expected two or more"),
        ((first, tmp_path / "nowhere"), "doesn't exist"),
        ((first, hf), f"by `lost convert {hf} CHECKPOINT --from hf`"),
        ((first, first, "--weights", ".5,.3"), "they add up to 0.8; expected 2 positive numbers that add up to 1"),
        ((first, first, "--weights", "1"), "--weights 1: expected 2 positive numbers"),
        ((first, first, "--weights", "2,-1"), "--weights 2,-1: expected 2 positive numbers"),
        ((first, first, "--weights", "a,b"), "--weights a,b: expected 2 positive numbers"),
        ((first, first, "--weights", "nan,1"), "expected 2 positive numbers"),
        ((first, first, "--by", "fisher"), "add --text"),
        ((first, first, "--text", text_folder), "add --by fisher"),
        ((first, first, "--backend", "mlx"), "nothing is computed"),
        ((first, first, "--as-dense", 4), "have an activation inside"),
    ):
        answer = lost("merge", *named, tmp_path / "out")
        assert (answer.code, words in answer.err) == (2, True), (words, answer.err)
        assert not (tmp_path / "out").exists()
    assert "already exists" in lost("merge", first, first, cola).err
    assert "is the source itself" in lost("merge", first, first, first, "--overwrite").err
    assert lost("merge", first, first, cola, "--overwrite").code == 0


def test_what_only_affects_the_start_may_differ(config: Callable[..., Config], prepared: Dataset, lost: Callable,
                                                tmp_path: Path) -> None:  # fmt: skip
    settings = config(model=SMALL)
    paths = [
        write(tmp_path / name, initial_values(settings), (), each, TrainState(step=3), prepared.tokenizer).path
        for name, each in {"a": settings, "b": settings.replace("projection", select="l1", start="random")}.items()
    ]
    assert lost("merge", *paths, tmp_path / "out").code == 0


def test_weights_that_are_not_finite_are_named(config: Callable[..., Config], prepared: Dataset, tmp_path: Path,
                                               lost: Callable) -> None:  # fmt: skip
    good = checkpoint_of(config(model=SMALL), tmp_path / "good", prepared)
    arrays = dict(good.parameters())
    arrays["model.norm.weight"] = np.full_like(arrays["model.norm.weight"], np.nan)
    bad = write(tmp_path / "bad", arrays.items(), (), good.config, TrainState(step=3), prepared.tokenizer)
    answer = lost("merge", good.path, bad.path, tmp_path / "out")
    assert answer.code == 2
    assert f"{bad.path}: model.norm.weight holds numbers that are not finite" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_squared_gradients_are_the_references(config: Callable[..., Config], backend: str) -> None:
    """Of a batch at a time, the mean; masked predictions don't count."""
    sizes = {"hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "vocab_size": 7}
    settings = config(model=sizes, projection={"rank": 2, "short_conv_width": 2})
    values = dict(initial_values(settings.replace("model", initializer_range=0.3)))
    engine = create_engine(settings, backend, "cpu")
    engine.load(values.items())
    draw = np.random.default_rng(0)
    tokens = [draw.integers(0, 7, (rows, 5)).astype(np.int32) for rows in (2, 1)]
    batches = [Batch(tokens[0]), Batch(tokens[1], np.array([[True, True, False, True]]))]
    found = backend_module(backend).squared_gradients(engine, iter(batches))
    wide = {name: a if a.dtype == np.int32 else a.astype(np.float64) for name, a in values.items()}
    gradients = [reference.gradients(settings, wide, each.tokens, each.mask) for each in batches]
    assert found.keys() == gradients[0].keys()
    for name, array in found.items():
        wanted = np.mean([each[name] ** 2 for each in gradients], axis=0)
        np.testing.assert_allclose(array, wanted, rtol=1e-3, atol=1e-8)
        assert array.dtype == np.float32


@settings(max_examples=20)
@given(st.lists(st.floats(0.1, 1), min_size=2, max_size=4), st.integers(0, 99))
def test_fisher_information_counts_as_shares_do(shares: list[float], seed: int) -> None:
    """Where it is the same for all it changes nothing; where one alone has any, its weights are taken."""
    draw, whole = np.random.default_rng(seed), Checkpoint.__new__(Checkpoint)
    arrays = [draw.normal(size=(3, 4)) for _ in shares]

    def mean_by(fishers: list[np.ndarray]) -> np.ndarray:
        parts = [Part(whole, share / sum(shares), {"w": fisher}) for share, fisher in zip(shares, fishers, strict=True)]
        return mean(parts, [lambda _, array=array: array for array in arrays], "w")

    plain = sum(share / sum(shares) * array for share, array in zip(shares, arrays, strict=True))
    for same in (draw.uniform(0, 1, (3, 4)), np.zeros((3, 4))):
        np.testing.assert_allclose(mean_by([same] * len(arrays)), plain, rtol=1e-9)
    alone = [np.zeros((3, 4)) for _ in arrays]
    alone[0][0, 0] = 1e6
    found = mean_by(alone)
    np.testing.assert_allclose(found[0, 0], arrays[0][0, 0], atol=0.05)
    np.testing.assert_allclose(found[1:], plain[1:], rtol=1e-9)


LINEAR = {"activation": "none", "align": 1}
AS_DENSE = {
    "lost": ({"kind": "lost", "rank": 4, **LINEAR}, {"kind": "lost", "rank": 6, "density": 0.3, **LINEAR}),
    "lowrank": ({"kind": "lowrank", "rank": 4}, {"kind": "cola", "rank": 6, "activation": "none"}),
    "mixed": ({"kind": "sltrain", "rank": 4, "overrides": {"*.q_proj": {"kind": "dense"}}}, {"kind": "dense"}),
}


@pytest.mark.parametrize("kind", AS_DENSE)
def test_layers_as_matrices(
    lost: Callable, config: Callable[..., Config], prepared: Dataset, tmp_path: Path, kind: str
) -> None:
    """Whatever ranks and channels: of full rank, the merged model's layers are the average of theirs."""
    host = {**SMALL, **HOST}
    paths = []
    for name, projection in zip("ab", AS_DENSE[kind], strict=True):
        paths.append(checkpoint_of(config(model=host, projection=projection), tmp_path / name, prepared).path)
    refused = lost("merge", *paths, tmp_path / "out")
    assert (refused.code, "with --as-dense RANK" in refused.err) == (2, True)
    answer = lost("merge", *paths, tmp_path / "out", "--as-dense", 24, "--json")
    assert answer.code == 0, answer.err
    assert max(each["gap"] for each in json.loads(answer.out)["layers"]) < 1e-5
    merged = open_checkpoint(tmp_path / "out")
    assert list(problems(merged)) == []
    kinds = {merged.config.projection.settings_for(f"model.layers.0.self_attn.{each}_proj").kind for each in "qk"}
    assert kinds == {"lost": {"lost"}, "lowrank": {"lowrank"}, "mixed": {"lost", "dense"}}[kind]
    narrow = lost("merge", *paths, tmp_path / "narrow", "--as-dense", 5, "--json")
    gaps = {each["name"]: each["gap"] for each in json.loads(narrow.out)["layers"]}
    assert 0.01 < gaps["model.layers.0.mlp.up_proj"] < 1
    assert lost("eval", tmp_path / "narrow", "--data", prepared.path, "--backend", "torch").code == 0


def test_the_first_models_type_is_kept(config: Callable[..., Config], prepared: Dataset, tmp_path: Path,
                                       lost: Callable) -> None:  # fmt: skip
    source = checkpoint_of(config(model=SMALL), tmp_path / "a", prepared)
    later = moved(source, tmp_path / "b", 0.01, prepared)
    assert lost("convert", later.path, tmp_path / "half", "--dtype", "bfloat16").code == 0
    assert lost("merge", tmp_path / "half", source.path, tmp_path / "out").code == 0
    written = open_checkpoint(tmp_path / "out")
    assert {array.dtype.name for _, array in written.parameters()} == {"bfloat16", "int32"}
    assert list(problems(written)) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_runs_that_adapt(
    lost: Callable, adapt: Callable[..., Path], prepared: Dataset, tmp_path: Path, backend: str
) -> None:
    """What is frozen keeps a type of its own, and has no Fisher information: shares decide, of the same weights."""
    runs = [
        adapt("lora", name, stop, "train.frozen_dtype=bfloat16", backend=backend)
        for name, stop in zip("ab", (2, 5), strict=True)
    ]
    (tmp_path / "text.txt").write_text("the rank of a layer")
    fisher = ("--by", "fisher", "--text", tmp_path / "text.txt", "--backend", backend, "--device", "cpu")
    merged = {}
    for name, options in {"shares": (), "fisher": fisher}.items():
        answer = lost("merge", *runs, tmp_path / name, *options)
        assert answer.code == 0, answer.err
        written = open_checkpoint(tmp_path / name)
        assert list(problems(written)) == []
        assert lost("eval", tmp_path / name, "--data", prepared.path, "--backend", backend).code == 0
        merged[name] = dict(written.parameters())
    first = dict(open_checkpoint(checkpoint_path(runs[0] / "checkpoints", 2)).parameters())
    for name, row in parameter_table(written.config).items():
        assert merged["fisher"][name].dtype.name == ("bfloat16" if row.frozen else "float32")
        assert np.array_equal(merged["fisher"][name], first[name]) == row.frozen
        assert np.array_equal(merged["fisher"][name], merged["shares"][name]) == row.frozen


def test_what_was_written_is_looked_at(config: Callable[..., Config], prepared: Dataset, tmp_path: Path) -> None:
    """A checkpoint that no command would open is no success."""
    good = checkpoint_of(config(model=SMALL), tmp_path / "a", prepared)
    halves = ((name, a if a.dtype == np.int32 else a.astype("bfloat16")) for name, a in good.parameters())
    with pytest.raises(CheckpointError, match=r"out: .*embed_tokens\.weight is bfloat16 .* float32 .*; remove it"):
        write_merged([Part(good, 1.0)], tmp_path / "out", good.config, halves)


def test_a_part_that_lacks_an_array_is_named(config: Callable[..., Config], prepared: Dataset, tmp_path: Path) -> None:
    settings = config(model=SMALL)
    good = checkpoint_of(settings, tmp_path / "a", prepared)
    less = [(name, array) for name, array in good.parameters() if name != "model.norm.weight"]
    lacking = write(tmp_path / "b", less, (), settings, TrainState(step=3), prepared.tokenizer)
    with pytest.raises(CheckpointError, match=r"b doesn't hold model\.norm\.weight"):
        dict(averaged([Part(good, 0.5), Part(lacking, 0.5)]))
