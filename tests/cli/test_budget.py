"""`lost convert --budget`: a model within it, in words and as JSON, searched, interrupted, and refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from lost.backends.torch.engine import TorchEngine
from lost.checkpoint import open_checkpoint
from lost.config import Config
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.engine import BACKENDS, backend_module, create_engine
from lost.interop.from_hf import open_folder
from lost.model.init import initial_values
from lost.model.parameters import projections
from lost.planning.budget import budget
from lost.reshape import divergence
from lost.reshape.fisher import gradient_squares_by_row

FIELDS = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 330,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
    "attention_bias": True,
}


@pytest.fixture(scope="module")
def folder(config: Callable[..., Config], prepared: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3's folder, with biases and norms that count, written without transformers."""
    folder = tmp_path_factory.mktemp("qwen")
    (folder / "config.json").write_text(json.dumps(FIELDS))
    sizes = {key: value for key, value in FIELDS.items() if key not in ("architectures", "hidden_act")}
    draw = np.random.default_rng(0)
    values = initial_values(config(model={**sizes, "use_qk_norm": True}, projection={"kind": "dense"}))
    arrays = {
        name: array + 0.3 * draw.standard_normal(array.shape).astype(np.float32) if array.ndim == 1 else array
        for name, array in values
    }
    save_file(arrays, folder / "model.safetensors")
    prepared.tokenizer.save(folder)
    return folder


@pytest.fixture
def text(text_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(each.read_text() for each in sorted(text_folder.glob("00?.txt")))[:3000])
    return path


def convert(lost: Callable, folder: Path, out: Path, *options: object) -> tuple[dict[str, Any], str]:
    answer = lost("convert", folder, out, "--from", "hf", *options, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out), answer.err


@pytest.mark.parametrize("of", ["parameters", "flops"])
def test_the_model_is_within_its_budget(of: str, lost: Callable, folder: Path, text: Path, tmp_path: Path) -> None:
    value, _ = convert(lost, folder, tmp_path / "out", "--budget", 0.8, "--budget-of", of, "--text", text)
    written, imported = open_checkpoint(tmp_path / "out"), open_folder(folder)
    counted = [budget(each) for each in (written.config, imported.config)]
    small, whole = (each.parameters if of == "parameters" else each.flops_per_token for each in counted)
    assert 0.75 < small / whole <= 0.8
    assert value["budget"]["kept"] == pytest.approx(small / whole)
    kinds = {each.name: each.settings.kind for each in projections(written.config)}
    assert value["budget"]["dense"] == [name for name, kind in kinds.items() if kind == "dense"]
    assert [each["name"] for each in value["layers"]] == [name for name, kind in kinds.items() if kind == "lost"]
    assert all(each["rank"] % 8 == 0 for each in value["layers"])
    theirs = load_file(folder / "model.safetensors")
    same = [name for name, array in written.parameters() if name in theirs]
    assert {name for name in theirs if name.endswith(("bias", "norm.weight"))} < set(same)
    assert all(array.tobytes() == theirs[name].tobytes() for name, array in written.parameters() if name in same)
    assert value["perplexity"]["after"] != value["perplexity"]["before"]
    assert lost("verify", tmp_path / "out").code == 0


def test_a_larger_budget_loses_less_and_calibrated_ranks_less_on_the_text(
    lost: Callable, folder: Path, text: Path, tmp_path: Path
) -> None:
    lost_of = {}
    for name, share, more in (
        ("small", 0.7, ["--calibrate", text]),
        ("large", 0.9, ["--calibrate", text]),
        ("fisher", 0.9, ["--calibrate", text, "--weight-by", "fisher"]),
    ):
        value, _ = convert(lost, folder, tmp_path / name, "--budget", share, *more)
        lost_of[name] = sum(each["input_error"] ** 2 for each in value["layers"])
    assert lost_of["large"] < 0.8 * lost_of["small"]
    assert lost_of["fisher"] != lost_of["large"]
    ranked = [
        convert(lost, folder, tmp_path / f"rank{len(more)}", "--rank", 16, "--calibrate", text, *more)[0]["layers"]
        for more in ([], ["--weight-by", "fisher"])
    ]
    assert [each["rank"] for each in ranked[0]] == [each["rank"] for each in ranked[1]]
    assert all(a["input_error"] < b["input_error"] for a, b in zip(*ranked, strict=True))
    shown = lost("convert", folder, tmp_path / "again", "--from", "hf", "--budget", 0.9, "--calibrate", text).out
    assert "% of the parameters, of a budget of 90.0%; " in shown
    assert " of 14 projections stay dense" in shown


def test_nothing_is_compiled(
    lost: Callable, folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card each length of a text would be, by default."""
    made: list[bool | None] = []

    def spied(config: Config, *where: str) -> Any:
        made.append(config.train.compile)
        return create_engine(config, *where)

    monkeypatch.setattr("lost.engine.create_engine", spied)
    convert(lost, folder, tmp_path / "out", "--budget", 0.9, "--calibrate", text)
    assert made
    assert set(made) == {False}


def test_a_search_is_nearer_and_the_same_by_seed(lost: Callable, folder: Path, text: Path, tmp_path: Path) -> None:
    options = ["--budget", 0.75, "--calibrate", text, "--search"]
    found = [convert(lost, folder, tmp_path / f"{n}", *options, 2, "--seed", n // 2) for n in range(3)]
    values = [value for value, _ in found]
    assert "generation 2 of 2: " in found[0][1]
    ranks = [[(each["name"], each["rank"]) for each in value["layers"]] for value in values]
    assert ranks[0] == ranks[1] != ranks[2]
    assert all(value["budget"]["kept"] <= 0.75 for value in values)
    distances = [value["budget"]["divergence"] for value in values]
    assert all(0 < each["found"] <= each["greedy"] for each in distances)
    assert any(each["found"] < each["greedy"] for each in distances)
    with_mlx, _ = convert(lost, folder, tmp_path / "mlx", *options, 1, "--backend", "mlx")
    assert with_mlx["budget"]["divergence"]["greedy"] == pytest.approx(
        values[0]["budget"]["divergence"]["greedy"], rel=1e-2
    )


def test_an_interrupted_search_writes_the_best_so_far(
    lost: Callable, folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, original = [], divergence.Divergence.__call__

    def judge(self: divergence.Divergence, *arguments: Any) -> float:
        judged.append(1)
        if len(judged) == 40:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(divergence.Divergence, "__call__", judge)
    options = ["--budget", 0.75, "--calibrate", text, "--search", 90]
    value, errors = convert(lost, folder, tmp_path / "out", *options)
    assert "generation 1 of 90" in errors
    assert "generation 3 of 90" not in errors
    assert "the search is stopped, and the best so far is written" in errors
    assert value["budget"]["divergence"]["found"] < value["budget"]["divergence"]["greedy"]
    assert lost("verify", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", 0.5, "--rank", 8], "--budget 0.5 with --rank 8: the budget chooses the ranks"),
        (["--budget", 1], "--budget 1: expected a share of the dense model, more than 0 and less than 1"),
        (["--budget", 0.05], "of the parameters; expected 0."),
        (["--budget", 0.5, "--search", 3], "--search 3 without --calibrate"),
        (["--budget", 0.5, "--seed", 3], "--seed 3 without --search"),
        (["--search", 3], "--search 3 without --budget"),
        (["--budget-of", "flops"], "--budget-of flops without --budget"),
        (["--budget", 0.8, "--weight-by", "fisher"], "--weight-by fisher without --calibrate"),
        (["--density", 0.1], "--density 0.1 without --rank or --budget"),
        (["--rank", 4, "--device", "cpu"], "--device cpu without --calibrate or --text"),
    ],
)
def test_refusals(lost: Callable, folder: Path, tmp_path: Path, options: list, message: str) -> None:
    answer = lost("convert", folder, tmp_path / "out", "--from", "hf", *options)
    assert answer.code == 2
    assert message in answer.err
    assert not (tmp_path / "out").exists()


def test_the_budget_that_a_refusal_names_can_be_met(lost: Callable, folder: Path, tmp_path: Path) -> None:
    answer = lost("convert", folder, tmp_path / "out", "--from", "hf", "--budget", 0.05)
    named = answer.err.split("expected ")[1].split(" or more")[0]
    assert convert(lost, folder, tmp_path / "out", "--budget", named)[0]["budget"]["dense"] == []
    below = lost("convert", folder, tmp_path / "below", "--from", "hf", "--budget", float(named) - 0.002)
    assert below.code == 2


def test_layers_that_are_no_plain_matrices_are_refused(lost: Callable, folder: Path, tmp_path: Path) -> None:
    export = Path(__file__).parent.parent / "compat" / "written-2026-11-21" / "export"
    answer = lost("convert", export, tmp_path / "out", "--from", "hf", "--budget", 0.8)
    assert answer.code == 2
    assert "--budget 0.8: model.layers." in answer.err
    assert "is stored as lost; expected plain matrices, which can be decomposed; leave --budget out" in answer.err
    convert(lost, folder, tmp_path / "lost", "--budget", 0.8)
    answer = lost("convert", tmp_path / "lost", tmp_path / "out", "--budget", 0.8)
    assert answer.code == 2
    assert "--budget 0.8 without --from hf" in answer.err


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_backends_say_of_the_next_token(backend: str, folder: Path, logits: Callable) -> None:
    imported = open_folder(folder)
    engine, module = create_engine(imported.config, backend, "cpu"), backend_module(backend)
    engine.load(imported.parameters())
    tokens = np.random.default_rng(0).integers(0, 320, (2, 20))
    expected = logits(engine, tokens)
    expected -= np.log(np.exp(expected).sum(-1, keepdims=True))
    following = np.concatenate([tokens, tokens[:, :1]], axis=1).astype(np.int32)
    (soft,) = engine.predict([Batch(following)], 5, 1.0)
    np.testing.assert_array_equal(np.sort(soft.ids), np.sort(np.argsort(-expected)[..., :5]))
    for found in (soft.log_probabilities, module.log_probabilities(engine, tokens, soft.ids)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.take_along_axis(expected, soft.ids, -1), atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("entries", [19, 300])
def test_a_model_is_as_far_from_itself_as_rounding(config: Callable[..., Config], backend: str, entries: int) -> None:
    """Where fewer than 256 entries are known, all of them count."""
    settings = config(projection={"kind": "dense"}, model={"vocab_size": entries, "initializer_range": 0.3})
    engine = create_engine(settings, backend, "cpu")
    engine.load(initial_values(settings))
    tokens = np.random.default_rng(0).integers(0, entries, 100).astype(np.int32)
    judge = divergence.Divergence(engine, lambda: initial_values(settings), {}, tokens, settings)
    assert judge.samples == 12
    assert judge({}, range(12)) == pytest.approx(0, abs=1e-6)


def test_squared_gradients_of_rows(folder: Path) -> None:
    """Against PyTorch's gradients of single samples; alike in both backends."""
    imported, name = open_folder(folder), "model.layers.1.mlp.down_proj"
    tokens = np.random.default_rng(0).integers(0, 320, (4, 17)).astype(np.int32)
    batches = [Batch(each[None]) for each in tokens]
    torch_found, mlx_found = (
        gradient_squares_by_row(imported.config, imported.parameters(), batches, [name], backend, "cpu")[name]
        for backend in BACKENDS
    )
    np.testing.assert_allclose(torch_found, mlx_found, rtol=1e-3)
    engine = TorchEngine(imported.config, "cpu")
    engine.load(imported.parameters())
    weight, squares = engine.model.get_parameter(f"{name}.weight"), np.zeros(64)
    for each in torch.from_numpy(tokens).long():
        weight.grad = None
        (engine.model(each[None, :-1], each[1:]) / 16).backward()
        squares += weight.grad.double().square().sum(1).numpy()
    np.testing.assert_allclose(torch_found, squares / len(tokens), rtol=1e-5)
