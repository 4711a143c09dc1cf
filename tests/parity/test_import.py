"""Folders that transformers wrote are read with equal logits; decomposed at full rank they stay equal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from lost.checkpoint import open_checkpoint
from lost.config import Config
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.engine import BACKENDS, backend_module, create_engine
from lost.interop.from_hf import Imported, open_folder
from lost.model.init import initial_values

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 330,
    "max_position_embeddings": 96,
    "initializer_range": 0.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rms_norm_eps": 1e-5}),
    "llama tied": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama 3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}}),
    "llama biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "mistral window": ("Mistral", {"sliding_window": 40}),
    "qwen 2": ("Qwen2", {}),
    "qwen 2 window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1}),
    "qwen 3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen 3 biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
}


def save(folder: Path, family: str, dataset: Dataset, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A model of transformers with no special values anywhere, saved with a tokenizer; returns it."""
    torch.manual_seed(0)
    made = getattr(transformers, f"{family}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{family}ForCausalLM")(made).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1:
                tensor.copy_(torch.randn_like(tensor) * 0.3 + name.endswith("norm.weight"))
    model.to(dtype).save_pretrained(folder, max_shard_size="100KB" if changes.get("head_dim") else "5GB")
    dataset.tokenizer.save(folder)
    return model


def their_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.float().numpy()


def our_logits(imported: Any, backend: str, tokens: np.ndarray, logits: Callable) -> np.ndarray:
    engine = create_engine(imported.config, backend, "cpu")
    engine.load(imported.parameters())
    return logits(engine, tokens)


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, SIZES["vocab_size"], (3, 40))


@pytest.mark.parametrize("case", CASES)
def test_logits(case: str, prepared: Dataset, logits: Callable, tokens: np.ndarray, tmp_path: Path) -> None:
    family, changes = CASES[case]
    theirs = their_logits(save(tmp_path, family, prepared, **changes), tokens)
    imported = open_folder(tmp_path)
    assert imported.architecture == f"{family}ForCausalLM"
    assert imported.tokenizer.fingerprint == prepared.tokenizer.fingerprint
    for backend in BACKENDS:
        np.testing.assert_allclose(our_logits(imported, backend, tokens, logits), theirs, atol=1e-4, err_msg=backend)
    limited = imported.config.model.max_position_embeddings
    assert (limited, len(imported.remarks)) == ((40, 1) if "window" in case else (96, 0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coarser_weights(dtype: torch.dtype, prepared: Dataset, tmp_path: Path) -> None:
    """bfloat16 stays what it is; float16, which no backend trains in, becomes float32: bit by bit the same numbers."""
    theirs = save(tmp_path, "Llama", prepared, dtype)
    imported = open_folder(tmp_path)
    kept = "bfloat16" if dtype == torch.bfloat16 else "float32"
    assert (imported.config.train.dtype, imported.config.train.param_dtype) == (kept, kept)
    expected = {name: tensor.detach().float().numpy() for name, tensor in theirs.named_parameters()}
    for name, array in imported.parameters():
        assert array.dtype.name == kept
        np.testing.assert_array_equal(array.astype(np.float32), expected.pop(name))
    assert not expected


def test_fields_of_transformers_4_mean_the_same(prepared: Dataset, tmp_path: Path) -> None:
    save(tmp_path, "Llama", prepared, rope_parameters=LLAMA3)
    newer = open_folder(tmp_path).config
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    rope = raw.pop("rope_parameters")
    raw |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": {**rope, "type": rope["rope_type"]}}
    path.write_text(json.dumps(raw))
    assert open_folder(tmp_path).config == newer
    assert newer.model.rope_scaling is not None
    raw["rope_scaling"] = {"rope_type": "yarn", "factor": 2.0}
    path.write_text(json.dumps(raw))
    with pytest.raises(Exception, match="rope_type = 'yarn': not supported"):
        open_folder(tmp_path)


@pytest.mark.parametrize("case", ["llama tied", "qwen 2", "qwen 3"])
def test_decomposed(
    case: str, lost: Callable, prepared: Dataset, logits: Callable, tokens: np.ndarray, tmp_path: Path
) -> None:
    family, changes = CASES[case]
    theirs = their_logits(save(tmp_path / "theirs", family, prepared, **changes), tokens)
    errors = {}
    for rank in (80, 24):
        out = tmp_path / f"rank{rank}"
        answer = lost("convert", tmp_path / "theirs", out, "--from", "hf", "--rank", rank, "--density", 0.1, "--json")
        assert answer.code == 0, answer.err
        layers = json.loads(answer.out)["layers"]
        assert len(layers) == 14
        errors[rank] = {tuple(layer["shape"]): layer["error"] for layer in layers}
        for backend in BACKENDS:
            found = our_logits(CheckpointOf(out), backend, tokens, logits)
            if rank == 80:
                np.testing.assert_allclose(found, theirs, atol=1e-4)
            else:
                assert np.abs(found - theirs).max() > 0.1
    assert max(errors[80].values()) < 1e-6
    for shape, error in errors[24].items():  # of keys and values, 24 can be the full rank
        assert error < 1e-6 if min(shape) <= 24 else 0.05 < error < 1


class CheckpointOf:
    def __init__(self, path: Path) -> None:
        self._checkpoint = open_checkpoint(path)
        self.config, self.parameters = self._checkpoint.config, self._checkpoint.parameters


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_moments_of_inputs(backend: str, prepared: Dataset, tokens: np.ndarray, tmp_path: Path) -> None:
    """Against hooks on transformers' own layers."""
    theirs = save(tmp_path, "Qwen2", prepared)
    imported: Imported = open_folder(tmp_path)
    engine = create_engine(imported.config, backend, "cpu")
    engine.load(imported.parameters())
    names = [f"model.layers.1.{part}" for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")]
    inputs = {}
    for name in names:
        theirs.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: inputs.update({name: args[0].detach().flatten(0, 1).double().numpy()})
        )
    batches = [Batch(tokens[:1].astype(np.int32)), Batch(tokens[1:].astype(np.int32))]
    found = backend_module(backend).input_moments(engine, batches, names)
    their_logits(theirs, tokens[:, :-1])
    for name, rows in inputs.items():
        moment = rows.T @ rows / len(rows)
        np.testing.assert_allclose(found[name], moment, atol=1e-5 * np.abs(moment).max(), err_msg=name)
    assert found.keys() == inputs.keys()


def test_second_moments_where_layers_read_the_same(config: Callable[..., Config], tokens: np.ndarray) -> None:
    """LOST layers, whose first halves MLX computes by one product."""
    run = config(projection={"kind": "lost"}, model={"vocab_size": 330})
    names, batches = ["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"], [Batch(tokens.astype(np.int32))]
    found = []
    for backend in BACKENDS:
        engine = create_engine(run, backend, "cpu")
        engine.load(initial_values(run))
        found.append(backend_module(backend).input_moments(engine, batches, names))
    for name in names:
        np.testing.assert_allclose(found[0][name], found[1][name], atol=1e-5 * np.abs(found[0][name]).max())


def test_generates_as_transformers_does(prepared: Dataset, tmp_path: Path) -> None:
    """Through the cache, with scaled rotary positions and normed queries."""
    scaled = {"rope_parameters": LLAMA3, "head_dim": 16}
    theirs = save(tmp_path, "Qwen3", prepared, **scaled)
    prompt = [5, 9, 100, 2]
    expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None)
    imported = open_folder(tmp_path)
    for backend in BACKENDS:
        engine = create_engine(imported.config, backend, "cpu")
        engine.load(imported.parameters())
        assert list(engine.generate(prompt, lambda scores: int(scores.argmax()), 12)) == expected[0, 4:].tolist()
