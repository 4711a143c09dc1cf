"""`lost convert --from hf`: its answer, the use of its result like any checkpoint, and refusals."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lost.checkpoint import open_checkpoint
from lost.config import Config
from lost.data.dataset import Dataset
from lost.evaluation import perplexity
from lost.model.init import initial_values

FIELDS = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 330,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "initializer_range": 0.2,
}


@pytest.fixture(scope="session")
def made(config: Callable[..., Config], prepared: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama's folder, written without transformers."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text(json.dumps(FIELDS))
    sizes = {key: value for key, value in FIELDS.items() if key not in ("architectures", "model_type", "hidden_act")}
    save_file(dict(initial_values(config(model=sizes, projection={"kind": "dense"}))), folder / "model.safetensors")
    prepared.tokenizer.save(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "llama"))


@pytest.fixture
def text(text_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(each.read_text() for each in sorted(text_folder.glob("00?.txt"))))
    return path


def rewrite(folder: Path, **changes: Any) -> None:
    fields = {**FIELDS, **changes}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


def test_becomes_a_checkpoint_like_any(lost: Callable, folder: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = lost("convert", folder, out, "--from", "hf", "--text", text, "--json")
    assert answer.code == 0, answer.err
    value = json.loads(answer.out)
    assert (value["architecture"], value["dtype"], value["layers"]) == ("LlamaForCausalLM", "float32", [])
    assert value["parameters"] == {"before": 39712, "after": 39712}
    expected = load_file(folder / "model.safetensors")
    found = dict(open_checkpoint(out).parameters())
    assert {name: each.tobytes() for name, each in found.items()} == {n: e.tobytes() for n, e in expected.items()}
    assert lost("verify", out).code == 0
    evaluated = json.loads(lost("eval", out, "--text", text, "--json").out)
    assert evaluated["perplexity"] == value["perplexity"]["before"] == value["perplexity"]["after"]
    assert json.loads(lost("generate", out, "--prompt", "the", "--max-tokens", 3, "--json").out)["prompt"] == "the"
    assert "LlamaForCausalLM" in lost("convert", folder, tmp_path / "again", "--from", "hf").out


def test_decomposes_for_a_calibration_text(lost: Callable, folder: Path, text: Path, tmp_path: Path) -> None:
    """What the text's inputs are weighted with lessens the error on them, and is measured on text left out."""
    answers = {}
    for name, more in (("plain", ["--text", text]), ("calibrated", ["--calibrate", text])):
        arguments = ["convert", folder, tmp_path / name, "--from", "hf", "--rank", 12, "--density", 0.1, *more]
        answer = lost(*arguments, "--json")
        assert answer.code == 0, answer.err
        answers[name] = json.loads(answer.out)
        assert answer.err.startswith(
            "decomposing block 1 of 2\n" if name == "plain" else "decomposing blocks 1 to 2 of 2"
        )
        assert lost("verify", tmp_path / name).code == 0
    plain, calibrated = (answers[name] for name in ("plain", "calibrated"))
    assert [each["name"] for each in plain["layers"]] == [each["name"] for each in calibrated["layers"]]
    assert all(each["input_error"] is None for each in plain["layers"])
    for before, after in zip(plain["layers"], calibrated["layers"], strict=True):
        assert 0 < after["input_error"] < before["error"] <= after["error"] + 1e-9
    assert 1 < calibrated["perplexity"]["tokens"] < plain["perplexity"]["tokens"] / 5
    assert calibrated["parameters"]["after"] != calibrated["parameters"]["before"]
    with_mlx = [*arguments[:2], tmp_path / "mlx", *arguments[3:], "--backend", "mlx"]
    found = json.loads(lost(*with_mlx, "--json").out)
    errors = [[each["input_error"] for each in value["layers"]] for value in (found, calibrated)]
    np.testing.assert_allclose(*errors, rtol=1e-3)
    shown = lost(*arguments, "--overwrite").out
    assert "on its inputs" in shown
    assert "before," in shown


def test_rounds_to_bfloat16_when_asked(lost: Callable, folder: Path, tmp_path: Path) -> None:
    answer = lost("convert", folder, tmp_path / "out", "--from", "hf", "--dtype", "bfloat16", "--rank", 8)
    assert answer.code == 0, answer.err
    written = open_checkpoint(tmp_path / "out")
    assert {array.dtype for _, array in written.parameters()} == {np.dtype(ml_dtypes.bfloat16), np.dtype(np.int32)}
    assert lost("verify", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "['GPT2LMHeadModel']: not supported; expected one of LlamaForCausalLM",
        ),
        ({"architectures": None}, "architectures = None: not supported"),
        ({"hidden_size": None, "rms_norm_eps": None}, "lacks hidden_size, rms_norm_eps"),
        ({"hidden_size": "wide"}, "hidden_size: Input should be a valid integer"),
        ({"hidden_size": 30}, "doesn't divide hidden_size = 30"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type = 'yarn': not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "belong to llama3, all three"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "rope_parameters differs between kinds of layers (full_attention)",
        ),
        ({"architectures": [["LlamaForCausalLM"]]}, "not supported; expected one of"),
        ({"rope_scaling": "linear"}, "rope_scaling = 'linear': expected an object"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5: not supported"),
        ({"quantization_config": {"bits": 4}}, "the weights are quantized"),
        ({"intermediate_size": 72}, "mlp.gate_proj.weight has shape (64, 32), not (72, 32)"),
        ({"num_hidden_layers": 1}, "9 arrays are not of this architecture"),
        ({"attention_bias": True}, "8 arrays are missing, model.layers.0.self_attn.k_proj.bias among them"),
        ({"tie_word_embeddings": True}, "lm_head.weight differs from model.embed_tokens.weight"),
    ],
)
def test_models_that_are_refused(lost: Callable, folder: Path, tmp_path: Path, changes: dict, message: str) -> None:
    rewrite(folder, **changes)
    answer = lost("convert", folder, tmp_path / "out", "--from", "hf")
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "out").exists()


def refused(lost: Callable, folder: Path, *arguments: object) -> str:
    answer = lost("convert", folder, folder.parent / "out", "--from", "hf", *arguments)
    assert answer.code == 2, answer.out
    assert "Traceback" not in answer.err
    assert not (folder.parent / "out").exists()
    return str(answer.err)


class Harmful:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self._path),))


def test_pickles_are_never_opened(lost: Callable, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "holds no weights; expected model.safetensors" in refused(lost, folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful(folder / "unpickled")))
    assert "pytorch_model.bin is a pickled checkpoint, which can run any code" in refused(lost, folder)
    assert not (folder / "unpickled").exists()


def test_arrays_that_follow_from_the_description_do_not_count(lost: Callable, folder: Path) -> None:
    """Old folders hold rotary frequencies, in float32 whatever the weights are."""
    arrays = {name: each.astype(ml_dtypes.bfloat16) for name, each in load_file(folder / "model.safetensors").items()}
    arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    save_file(arrays, folder / "model.safetensors")
    assert lost("convert", folder, folder.parent / "out", "--from", "hf").code == 0
    assert open_checkpoint(folder.parent / "out").config.train.param_dtype == "bfloat16"


def test_shards_and_their_index(lost: Callable, folder: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = [dict(list(arrays.items())[number::2]) for number in range(2)]
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, half in zip(names, halves, strict=True):
        save_file(half, folder / name)
    listed = {array: name for name, half in zip(names, halves, strict=True) for array in half}
    index = folder / "model.safetensors.index.json"

    def write(**changes: Any) -> None:
        index.write_text(json.dumps({"weight_map": {**listed, **changes}}))

    write(**{"model.norm.weight": "model-00003-of-00003.safetensors"})
    assert "1 of the files are missing: model-00003-of-00003.safetensors" in refused(lost, folder)
    write(**{"model.norm.weight": "../model.safetensors"})
    assert "a file outside its folder" in refused(lost, folder)
    write(**{"model.other.weight": names[0]})
    assert f"{names[0]} doesn't hold model.other.weight" in refused(lost, folder)
    index.write_text("{}")
    assert "is not an index of weights" in refused(lost, folder)
    write()
    assert lost("convert", folder, folder.parent / "out", "--from", "hf").code == 0
    found = dict(open_checkpoint(folder.parent / "out").parameters())
    assert {name: each.tobytes() for name, each in found.items()} == {n: e.tobytes() for n, e in arrays.items()}


def test_files_that_are_missing_or_broken(lost: Callable, folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    assert "can't be read as safetensors" in refused(lost, folder)
    arrays = load_file_bytes(whole, tmp_path)
    save_file({**arrays, "model.norm.weight": np.ones(32, np.float64)}, folder / "model.safetensors")
    assert "model.norm.weight has type F64" in refused(lost, folder)
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "tokenizer.model").unlink()
    assert "no tokenizer at" in refused(lost, folder)
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refused(lost, folder)
    (folder / "config.json").unlink()
    assert "has no readable config.json" in refused(lost, folder)
    assert "is not a folder" in refused(lost, tmp_path / "nowhere")


def load_file_bytes(content: bytes, folder: Path) -> dict[str, np.ndarray]:
    (folder / "whole.safetensors").write_bytes(content)
    return load_file(folder / "whole.safetensors")


def test_a_tokenizer_of_another_model(lost: Callable, folder: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        arrays[name] = arrays[name][:200].copy()
    save_file(arrays, folder / "model.safetensors")
    rewrite(folder, vocab_size=200)
    assert "its tokenizer has 320 entries and its model 200" in refused(lost, folder)


def test_a_window_limits_and_never_widens(lost: Callable, folder: Path) -> None:
    for window, positions in ((40, 40), (4096, 64)):
        rewrite(folder, architectures=["MistralForCausalLM"], sliding_window=window)
        answer = lost("convert", folder, folder.parent / f"out-{window}", "--from", "hf")
        assert answer.code == 0, answer.err
        assert open_checkpoint(folder.parent / f"out-{window}").config.model.max_position_embeddings == positions
        assert ("sequences are limited to the window" in answer.err) is (window == 40)


def test_a_template_that_is_not_read_is_named(lost: Callable, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    answer = lost("convert", folder, folder.parent / "out", "--from", "hf")
    assert answer.code == 0, answer.err
    assert f"the chat template of {folder} isn't read: tokenizer.model encodes no text to the tokens" in answer.err


def test_what_cannot_be_measured_is_complete_all_the_same(
    lost: Callable, folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[object] = []
    whole: Callable = perplexity.evaluate

    def evaluate(*arguments: object, **options: object) -> object:
        evaluated.append(arguments)
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(perplexity, "evaluate", evaluate)
    out = folder.parent / "out"
    answer = lost("convert", folder, out, "--from", "hf", "--rank", 4, "--text", text, "--json")
    assert (answer.code, "is complete, but wasn't measured (interrupted)" in answer.err) == (0, True), answer.err
    value = json.loads(answer.out)
    assert (value["perplexity"], len(value["layers"])) == (None, 14)
    assert lost("verify", out).code == 0


def test_options_that_do_not_go_together(lost: Callable, folder: Path, text: Path) -> None:
    assert "--density 0.1 without --rank or --budget" in refused(lost, folder, "--density", 0.1)
    assert "--calibrate without --rank or --budget" in refused(lost, folder, "--calibrate", text)
    assert "density = 0.0" in refused(lost, folder, "--rank", 4, "--density", 0)
    assert "doesn't exist" in refused(lost, folder, "--rank", 4, "--calibrate", folder / "nothing.txt")
    assert "--weights-only with --from hf" in refused(lost, folder, "--weights-only")
    answer = lost("convert", folder, folder.parent / "out", "--rank", 4)
    assert answer.code == 2
    assert "--rank 4 without --from hf" in answer.err
    (folder.parent / "out").mkdir()
    answer = lost("convert", folder, folder.parent / "out", "--from", "hf")
    assert answer.code == 2
    assert "already exists" in answer.err
