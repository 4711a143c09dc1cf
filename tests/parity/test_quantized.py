"""Exports in few bits: opened by mlx-lm, which must give what our engine gives for the numbers that they stand for."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from exports import SIZES, checkpoint_of
from mlx_lm.generate import generate_step
from mlx_lm.utils import load

from lost.config import Config
from lost.data.dataset import Dataset
from lost.errors import ExportError
from lost.interop.to_hf import quantized
from lost.interop.to_hf.folder import export
from lost.interop.to_hf.quantized import Quantization, unpacked

KINDS = {
    "lost": {"rank": 32, "align": 32, "short_conv_width": 3},
    "small ranks": {"rank": 8, "align": 8, "learn_gamma": True},
    "cola": {"kind": "cola", "rank": 32},
    "sltrain": {"kind": "sltrain", "rank": 32},
    "dense": {"kind": "dense"},
}
KEPT = {"small ranks": 18}  # every `up`, of 3 blocks with 7 layers each, but down_proj's: its rows are 32 long


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_numbers_mean_what_mlx_says(bits: int, group: int) -> None:
    weight = np.random.default_rng(bits).normal(size=(5, 256)).astype(np.float32)
    parts = [np.array(each) for each in mx.quantize(mx.array(weight), group, bits)]
    wanted = np.array(mx.dequantize(*map(mx.array, parts), group, bits))
    np.testing.assert_allclose(unpacked(*parts, bits), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_opens_and_generates(
    config: Callable[..., Config], prepared: Dataset, tmp_path: Path, kind: str
) -> None:
    """Compared as closely as other exports are, with what the numbers stand for."""
    host = {**SIZES, "use_qk_norm": kind == "lost", "tie_word_embeddings": kind != "cola"}
    source = checkpoint_of(config(projection=KINDS[kind], model=host), tmp_path / "source", prepared)
    dtype = "bfloat16" if kind == "sltrain" else None
    made = export(source, tmp_path / "out", "mlx-lm", dtype, quantization=Quantization(4, 32))
    assert [each.reader.split()[0] for each in made.agreements] == ["mlx-lm"]
    assert made.agreements[0].difference < 1e-4
    assert made.quantized is not None
    assert len(made.quantized.kept) == KEPT.get(kind, 0)
    assert 4 < made.quantized.bits_per_weight < (24 if kind in KEPT else 8)
    model, _, described = load(
        str(tmp_path / "out"), {"trust_remote_code": True}, trust_remote_code=kind != "dense", return_config=True
    )[:3]
    assert (described["quantization"]["bits"], described["quantization"]["group_size"]) == (4, 32)
    stored = {name for name, each in model.named_modules() if type(each).__name__.startswith("Quantized")}
    assert len(stored) == made.quantized.matrices
    assert not stored & set(made.quantized.kept)
    assert len(list(generate_step(mx.array([1, 40, 41, 300]), model, max_tokens=5))) == 5


def test_the_command_tells_what_it_costs(lost: Callable, exported: tuple, prepared: Dataset, tmp_path: Path) -> None:
    """In its answer and in the card, on the validation text or another; 8 bits cost less."""
    run, answers = exported[0].path, {}
    (tmp_path / "text.txt").write_text("the rank of a sparse layer and the step of a model\n" * 20)
    for bits, text in (("4", ()), ("8", ()), ("8", ("--text", tmp_path / "text.txt"))):
        out = tmp_path / f"{bits}-{len(text)}"
        done = lost("convert", run, out, "--to", "mlx-lm", "--bits", bits, "--group-size", "32", *text, "--json")
        assert done.code == 0, done.err
        answers[out.name] = json.loads(done.out)["quantization"]
        card = (out / "README.md").read_text()
        assert f"to {bits} bits in groups of 32" in card
        assert f"| perplexity after | {answers[out.name]['perplexity']['after']:.3f} |" in card
        assert "transformers import" not in card
        assert "library_name: mlx\n" in card
    four, eight, other = (answers[each] for each in ("4-0", "8-0", "8-2"))
    own = json.loads(lost("eval", run, "--json").out)
    assert four["perplexity"]["before"] == pytest.approx(own["perplexity"], rel=1e-4)
    assert four["perplexity"]["tokens"] == own["tokens"]
    off = [abs(each["perplexity"]["after"] / each["perplexity"]["before"] - 1) for each in (four, eight)]
    assert 0 < off[1] < off[0] < 0.2
    assert other["perplexity"]["tokens"] != own["tokens"]
    assert four["bits_per_weight"] < eight["bits_per_weight"] < 14
    assert (tmp_path / "4-0" / "model.safetensors").stat().st_size < exported[0].path.stat().st_size + 200_000
    again = lost("eval", tmp_path / "4-0", "--data", prepared.path)
    assert (again.code, "use the unquantized model" in again.err) == (2, True)


def test_what_disagrees_is_not_kept(
    config: Callable[..., Config], prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint_of(config(projection=KINDS["lost"], model=SIZES), tmp_path / "source", prepared)
    monkeypatch.setattr(quantized, "unpacked", lambda *parts: unpacked(*parts) * 1.01)
    with pytest.raises(ExportError, match="log-probabilities differ"):
        export(source, tmp_path / "out", "mlx-lm", quantization=Quantization(4, 32))
    assert not (tmp_path / "out").exists()


def test_what_can_not_be_quantized_is_refused(
    lost: Callable, config: Callable[..., Config], prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint_of(config(model={"vocab_size": 320}), tmp_path / "source", prepared).path
    for named, words in (
        (("--to", "hf", "--bits", "4"), "--bits 4 without --to mlx-lm: --to hf has no use"),
        (("--to", "gguf", "--bits", "8"), "--bits 8 with --to gguf: --dtype q8_0 stores"),
        (("--bits", "8"), "--bits 8 without --to mlx-lm"),
        (("--to", "mlx-lm", "--group-size", "32"), "--group-size 32 without --bits"),
        (("--to", "mlx-lm", "--text", tmp_path), "--text without --bits: there is nothing"),
        (("--to", "mlx-lm", "--bits", "4"), "it divides the rows of no matrix"),
        (("--to", "mlx-lm", "--bits", "4", "--text", tmp_path / "nowhere"), "nowhere doesn't exist"),
    ):
        answer = lost("convert", source, tmp_path / "out", *named)
        assert (answer.code, words in answer.err) == (2, True), (words, answer.err)
        assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    answer = lost("convert", source, tmp_path / "out", "--to", "mlx-lm", "--bits", "4")
    assert (answer.code, "pip install -c constraints.txt -e '.[mlx]'" in answer.err) == (2, True)
