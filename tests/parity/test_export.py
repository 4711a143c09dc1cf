"""Exported folders, opened by transformers and by mlx-lm: the same logits, the same tokens, the same ids as ours."""

import contextlib
import json
import os
import runpy
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from itertools import count
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from exports import HOSTS, SIZES, checkpoint_of
from mlx_lm.generate import BatchGenerator, generate_step
from mlx_lm.utils import load
from processes import run_command, wait_until
from transformers import LlamaForCausalLM

from lost.checkpoint import Checkpoint
from lost.config import Config
from lost.data.dataset import Dataset
from lost.engine import Engine, create_engine, inference_config
from lost.interop.to_hf.check import log_probabilities, own_scores
from lost.interop.to_hf.folder import export

OPENER = Path(__file__).parent / "open_with_transformers.py"
SHARED = Path(__file__).parents[3] / "shared" / "data"
TOKENS = [1, 40, 41, 300, 7, 99, 260, 5, 12, 311, 64, 3]
OTHER_PYTHON = os.environ.get("LOST_TEST_OTHER_PYTHON")
KINDS = {
    "lost": {"rank": 32, "align": 32},
    "lost learned": {"rank": 8, "learn_gamma": True, "activation": "gelu", "keep_gate_activation": False},
    "lost inner": {"rank": 8, "activation_at": "inner", "activation": "relu2"},
    "lost output": {"rank": 8, "activation_at": "output"},
    "cola": {"kind": "cola", "rank": 16, "keep_gate_activation": False},
    "sltrain": {"kind": "sltrain", "rank": 8},
    "mixed": {
        "kind": "lowrank",
        "rank": 8,
        "overrides": {"*.0.mlp.*": {"kind": "lost"}, "*.q_proj": {"kind": "dense"}},
    },
    "dense": {"kind": "dense"},
    "convolutions": {
        "kind": "lost",
        "short_conv_width": 4,
        "overrides": {"*.k_proj": {"kind": "cola", "short_conv_width": 2}},
    },
}


def engine_of(source: Checkpoint) -> Engine:
    engine = create_engine(inference_config(source.config), "torch", "cpu")
    engine.load(source.parameters())
    return engine


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(config: Callable[..., Config], prepared: Dataset, tmp_path: Path, kind: str) -> None:
    settings = config(projection=KINDS[kind], model={**SIZES, "rope_theta": 500.0})
    source = checkpoint_of(settings, tmp_path / "source", prepared)
    made = export(source, tmp_path / "out", "hf")
    assert [each.reader.split()[0] for each in made.agreements] == ["transformers", "mlx-lm"]
    assert all(each.difference < 1e-5 for each in made.agreements), made.agreements
    assert made.plain is (kind == "dense")
    assert (tmp_path / "out" / "modeling_lost.py").exists() is not made.plain
    expected = list(engine_of(source).generate(TOKENS, picker(), 12))
    assert len(set(expected)) > 6
    model, _ = load(str(tmp_path / "out"), {"trust_remote_code": True}, trust_remote_code=True)[:2]
    pick = picker()
    found = generate_step(
        mx.array(TOKENS), model, max_tokens=12, sampler=lambda scores: mx.array([pick(np.array(scores[0]))])
    )
    assert [int(token) for token, _ in found] == expected


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", ["dense", "lost", "lost output", "mixed"])
def test_every_host(config: Callable[..., Config], prepared: Dataset, tmp_path: Path, kind: str, host: str) -> None:
    settings = config(projection=KINDS[kind], model={**SIZES, **HOSTS[host]})
    source = checkpoint_of(settings, tmp_path / "source", prepared)
    made = export(source, tmp_path / "out", "hf")
    assert len(made.agreements) == 2
    assert all(each.difference < 1e-5 for each in made.agreements), made.agreements
    named = json.loads((tmp_path / "out" / "config.json").read_text())["architectures"]
    assert named == [{"Qwen3": "Qwen3"}.get(host, "Llama") + "ForCausalLM" if kind == "dense" else "LostForCausalLM"]


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_either_backend_answers_for_us(
    config: Callable[..., Config], prepared: Dataset, tmp_path: Path, backend: str
) -> None:
    """Whatever the run trained with: nothing of that is needed, nor there on every backend."""
    settings = config(projection=KINDS["lost"], model=SIZES, optimizer={"name": "adamw8bit"}, train={"compile": True})
    source = checkpoint_of(settings, tmp_path / "source", prepared)
    found = own_scores(settings, source.parameters(), TOKENS, backend)
    expected = log_probabilities(np.stack([next_scores(source, TOKENS[: n + 1]) for n in range(len(TOKENS))]))
    assert found.shape == (len(TOKENS), SIZES["vocab_size"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def next_scores(source: Checkpoint, tokens: list[int]) -> np.ndarray:
    """Our scores after the last of some tokens, all of them read at once."""
    noted: list[np.ndarray] = []

    def choose(scores: np.ndarray) -> int:
        noted.append(scores.copy())
        return 0

    list(engine_of(source).generate(tokens, choose, 1))
    return noted[0]


def picker() -> Callable[[np.ndarray], int]:
    """Take the likeliest token, then the second, and so on: the likeliest alone soon repeat in an untrained model."""
    places = count(1)
    return lambda scores: int(np.argsort(scores)[-next(places)])


def test_transformers(exported: tuple[Checkpoint, Path], logits: Callable, tmp_path: Path) -> None:
    check_report(exported[0], runpy.run_path(str(OPENER))["report"](exported[1], TOKENS, tmp_path), logits)


@pytest.mark.slow
@pytest.mark.skipif(OTHER_PYTHON is None, reason="LOST_TEST_OTHER_PYTHON names no Python with another transformers")
def test_another_transformers(exported: tuple[Checkpoint, Path], logits: Callable, tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text(json.dumps(TOKENS))
    command = [str(OTHER_PYTHON), str(OPENER), str(exported[1]), str(tmp_path / "tokens.json"), str(tmp_path / "work")]
    done = run_command(*command, check=True)
    report = json.loads(done.stdout)
    import transformers

    assert report["version"] != transformers.__version__
    check_report(exported[0], report, logits)


def check_report(source: Checkpoint, report: dict, logits: Callable) -> None:
    engine = engine_of(source)
    assert not any(report["loading"].values()), report["loading"]
    assert report["classes"][:2] == ["LostForCausalLM", "LostModel"]
    assert report["attention_interface"]
    expected = logits(engine, np.array([TOKENS]))[0]
    for way in ("logits", "head_of_trunk", "saved_again", "eager"):
        np.testing.assert_allclose(np.array(report[way]), expected, atol=1e-5, err_msg=way)
    np.testing.assert_allclose(np.array(report["bfloat16"]), expected, atol=0.02 * np.abs(expected).max())
    greedy = list(engine.generate(TOKENS, lambda scores: int(scores.argmax()), 12))
    assert len(set(greedy)) > 1
    assert report["greedy"] == report["without_cache"] == report["static_cache"] == greedy
    assert report["left_padded"] == [greedy, report["short"]]
    assert report["one_beam_of_three"] == report["beams_without_cache"]


@pytest.mark.parametrize("overrides", [{}, {"*": {"short_conv_width": 0}, "*.1.mlp.up_proj": {"short_conv_width": 3}}])
def test_mlx_lm_takes_texts_in_batches(
    config: Callable[..., Config], prepared: Dataset, tmp_path: Path, overrides: dict
) -> None:
    """Texts of several lengths, of which convolutions see no padding; also where only one projection has any."""
    settings = config(projection={"short_conv_width": 4, "overrides": overrides}, model=SIZES)
    export(checkpoint_of(settings, tmp_path / "source", prepared), tmp_path / "out", "hf")
    model, _ = load(str(tmp_path / "out"), {"trust_remote_code": True}, trust_remote_code=True)[:2]
    texts = [TOKENS[:9], TOKENS[2:5], TOKENS[1:8]]
    alone = [[int(token) for token, _ in generate_step(mx.array(text), model, max_tokens=8)] for text in texts]
    batch = BatchGenerator(model, max_tokens=8)
    numbers, found = batch.insert(texts), {}
    while answers := batch.next_generated():
        for each in answers:
            found.setdefault(each.uid, []).append(each.token)
    assert [found[number] for number in numbers] == alone


def test_mlx_lm_quantizes_and_serves(exported: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    from mlx_lm.convert import convert

    convert(str(exported[1]), str(tmp_path / "q4"), quantize=True, q_group_size=32, q_bits=4, trust_remote_code=True)
    model, tokenizer, description = load(
        str(tmp_path / "q4"), {"trust_remote_code": True}, trust_remote_code=True, return_config=True
    )
    assert description["quantization"]["bits"] == 4
    assert type(model.layers[0].mlp.up_proj.up).__name__ == type(model.layers[0].mlp.up_proj.down).__name__
    assert type(model.layers[0].mlp.up_proj.up).__name__ == "QuantizedLinear"
    assert len(list(generate_step(mx.array(tokenizer.encode("the rank")), model, max_tokens=5))) == 5


@pytest.mark.slow
def test_mlx_lm_serves(exported: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    """The server as a user starts it, asked once."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    blas = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", exported[1], "--trust-remote-code", "--port", port]
    question = {"prompt": "the rank of", "max_tokens": 6, "temperature": 0}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, env={**os.environ, "LD_PRELOAD": str(blas)}
        )
    try:
        answer = ask(f"http://localhost:{port}/v1/completions", question, server)
    finally:
        server.terminate()
        server.wait()
    assert answer["usage"]["completion_tokens"] == 6
    tokenizer = exported[0].tokenizer()
    engine = engine_of(exported[0])
    prompt = tokenizer.encode("the rank of").tolist()
    expected = list(engine.generate(prompt, lambda scores: int(scores.argmax()), 6))
    assert answer["choices"][0]["text"] == "".join(tokenizer.stream(expected, prompt))


def ask(address: str, question: dict, server: subprocess.Popen) -> dict:
    request = urllib.request.Request(address, json.dumps(question).encode(), {"Content-Type": "application/json"})
    answers = []

    def answered() -> bool:
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(request) as answer:
            answers.append(json.load(answer))
        return bool(answers)

    wait_until(answered, server)
    return answers[0]


def test_parts_and_bfloat16(exported: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    made = export(exported[0], tmp_path / "out", "mlx-lm", "bfloat16", part_bytes=20_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 2
    assert all((tmp_path / "out" / name).exists() for name in files)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert len(made.agreements) == 2
    assert all(each.difference < 1e-5 for each in made.agreements)
    whole = (exported[1] / "model.safetensors").stat().st_size
    assert sum((tmp_path / "out" / name).stat().st_size for name in files) < 0.8 * whole


def test_dense(config: Callable[..., Config], prepared: Dataset, tmp_path: Path) -> None:
    settings = config(projection={"activation": "none", "rank": 8}, model={**SIZES, "tie_word_embeddings": True})
    source = checkpoint_of(settings, tmp_path / "source", prepared)
    for dtype in ("float32", "bfloat16"):
        made = export(source, tmp_path / dtype, "dense", dtype)
        assert made.plain
        assert len(made.agreements) == 2
        assert not list((tmp_path / dtype).glob("*.py"))
    model = LlamaForCausalLM.from_pretrained(tmp_path / "float32")
    with torch.no_grad():
        found = model(torch.tensor([TOKENS])).logits[0].numpy()
        expected = engine_of(source).model.logits(torch.tensor([TOKENS]))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
