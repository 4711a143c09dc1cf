"""What stands before a text in other programs: what the model learned, whatever its tokenizer would add."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
from mlx_lm.utils import load_tokenizer
from transformers import AutoTokenizer

from lost.checkpoint import Checkpoint, Origin, TrainState, write
from lost.cli.load import load_weights
from lost.cli.texts import open_texts
from lost.config import Config
from lost.errors import ExportError
from lost.evaluation.lm_eval_model import LmEvalModel, as_lm_eval_model
from lost.evaluation.perplexity import evaluate
from lost.generation.conversation import Conversation
from lost.generation.sampler import Sampler
from lost.interop.source import Source, open_source
from lost.interop.special_tokens import imported, read_after, with_ends
from lost.interop.to_gguf.folder import export as export_gguf
from lost.interop.to_gguf.modelfile import modelfile
from lost.interop.to_hf.folder import export
from lost.model.init import initial_values
from lost.tokenizer import Tokenizer
from lost.tokenizer import load_tokenizer as load_own
from lost.tokenizer.chat_template import template_of

TEMPLATE = "{{ bos_token }}{% for m in messages %}<|turn|>{{ m['content'] }}{% endfor %}"
SAID = [{"role": "user", "content": "the"}]
TRAINED = TrainState(step=3, data="a set's fingerprint")


def first(source: Source) -> int:
    return read_after(source.tokenizer(), source.progress)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """As Llama 3 has it: a token at the beginning, which the file itself puts before a text, and the template too."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|turn|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=made.pre_tokenizer.alphabet()
    )
    made.train_from_iterator(["the rank of a layer and the channels that it keeps"] * 9, trainer)
    puts = tokenizers.processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    made.post_processor = tokenizers.processors.Sequence([tokenizers.processors.ByteLevel(trim_offsets=False), puts])
    made.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return load_own(tmp_path)


@pytest.fixture
def source_of(
    config: Callable[..., Config], tokenizer: Tokenizer, tmp_path: Path
) -> Callable[[TrainState], Checkpoint]:
    settings = config(model={"vocab_size": tokenizer.vocab_size}, projection={"kind": "dense"})
    return lambda state: write(tmp_path / "source", initial_values(settings), (), settings, state, tokenizer)


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize(("state", "begin"), [(TRAINED, 1), (TrainState(), 0)])
def test_the_token_that_was_learned(
    tokenizer: Tokenizer, source_of: Callable, tmp_path: Path, state: TrainState, begin: int
) -> None:
    """End-of-text in a run of ours, which no tokenizer adds; in an imported model its own, as its tokenizer adds it."""
    out = tmp_path / "out"
    assert len(export(source_of(state), out, "hf").agreements) == 2
    ids = tokenizer.encode("the layer").tolist()
    asked = tokenizer.encode(template_of(tokenizer).question(SAID), special_tokens=True).tolist()
    assert asked[:2] == [0, 2]
    for reader in (AutoTokenizer.from_pretrained(out), load_tokenizer(out)):
        assert reader.encode("the layer") == ([begin, *ids] if begin == 0 else ids)
        assert reader.bos_token_id == begin
        assert reader.apply_chat_template(SAID, return_dict=False) == asked
    for name in ("config.json", "generation_config.json"):
        described = read(out, name)
        assert (described["bos_token_id"], described["eos_token_id"]) == (begin, 1)
    before, after = (read(folder, "tokenizer.json") for folder in (tmp_path, out))
    assert (before == after) is (begin == 0)
    assert "ByteLevel" in json.dumps(after["post_processor"])


@pytest.mark.parametrize(("state", "begin"), [(TRAINED, 1), (TrainState(), 0)])
def test_a_text_is_read_after_it(
    tokenizer: Tokenizer, source_of: Callable, tmp_path: Path, state: TrainState, begin: int
) -> None:
    """In conversations, where the template may have written it, and in tasks, as in lm_eval's own model."""
    source = open_source(source_of(state).path)
    assert first(source) == begin
    read: list[list[int]] = []
    engine: Any = SimpleNamespace(generate=lambda prompt, choose, limit: read.append(prompt) or iter([1]))
    list(Conversation(engine, tokenizer, Sampler(0), 99, 9, begin=begin).ask("the"))
    asked = tokenizer.encode(template_of(tokenizer).question(SAID), special_tokens=True).tolist()
    assert read == [asked if begin == 0 else [1, *asked]]
    model = LmEvalModel(engine, tokenizer, 99, 200, begin=begin)
    harness, plain = as_lm_eval_model(model), tokenizer.encode("the layer").tolist()
    assert harness.prefix_token_id == begin
    theirs = AutoTokenizer.from_pretrained(tmp_path)("the layer")["input_ids"]
    assert harness.tok_encode("the layer") == (theirs if begin == 0 else plain)
    assert harness.tok_encode("the layer", add_special_tokens=False) == plain
    model.generations([("the layer", {"until": ["x"], "max_gen_toks": 8})])
    assert read[1] == (theirs if begin == 0 else plain)


@pytest.mark.parametrize(("state", "begin"), [(TRAINED, 1), (TrainState(), 0)])
def test_a_text_and_a_task_are_one_figure(
    source_of: Callable, tokenizer: Tokenizer, tmp_path: Path, state: TrainState, begin: int
) -> None:
    source = open_source(source_of(state).path)
    engine = load_weights(source, "torch", "cpu")
    text = "the rank of a layer and the channels that it keeps " * 5
    (tmp_path / "text.txt").write_text(text)
    found = open_texts(source, None, tmp_path / "text.txt", False)[""].measure(engine, 16, 2, lambda: None)
    task = LmEvalModel(engine, tokenizer, 16, 32, begin=first(source)).texts([text])
    assert found.nll == pytest.approx(-task[0], rel=1e-6)
    ids = np.array([begin, *tokenizer.encode(text)])
    assert found == evaluate(engine, ids, 16, 2, text_bytes=len(text))
    assert found.tokens == len(ids) - 1


@pytest.fixture
def pieces(tmp_path: Path) -> Callable[[Mapping[str, Any]], Tokenizer]:
    """As Llama 2 has it: a sentencepiece model with a token for the beginning, and what stands beside it."""
    model = io.BytesIO()
    lines = [f"word{n} some text, the rank of a layer {n * 7}" for n in range(500)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=500,
        model_type="bpe",
        minloglevel=2,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )

    def load(beside: Mapping[str, Any]) -> Tokenizer:
        (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(beside))
        return load_own(tmp_path)

    return load


@pytest.mark.parametrize(
    ("state", "beside", "begin", "adds"),
    [
        (TrainState(), {"bos_token": {"content": "<s>"}, "add_bos_token": True}, 1, True),
        (TrainState(), {}, 1, True),
        (TrainState(), {"bos_token": "<s>", "add_bos_token": False}, 2, False),
        (TrainState(), {"bos_token": None}, 2, False),
        (TrainState(), {"bos_token": "<none>"}, 2, False),
        (TRAINED, {"bos_token": "<s>", "add_bos_token": True}, 2, False),  # by which ours learned nothing
    ],
)
def test_of_a_sentencepiece_model(
    config: Callable[..., Config],
    pieces: Callable[[Mapping[str, Any]], Tokenizer],
    tmp_path: Path,
    state: TrainState,
    beside: Mapping[str, Any],
    begin: int,
    adds: bool,
) -> None:
    tokenizer = pieces(beside)
    settings = config(model={"vocab_size": 500}, projection={"kind": "dense"})
    source = write(tmp_path / "source", initial_values(settings), (), settings, state, tokenizer)
    assert first(open_source(source.path)) == begin
    out, ids = tmp_path / "out", tokenizer.encode("the layer").tolist()
    assert len(export(source, out, "hf").agreements) == 2
    for reader in (AutoTokenizer.from_pretrained(out), load_tokenizer(out)):
        assert reader.encode("the layer") == ([begin, *ids] if adds else ids)
        assert reader.bos_token_id == begin
    assert read(out, "generation_config.json")["bos_token_id"] == begin
    export_gguf(source, tmp_path / "gguf", "float32")
    found = fields(tmp_path / "gguf" / "model-f32.gguf")
    assert (found["bos_token_id"], found["add_bos_token"]) == (begin, adds or state is TRAINED)


def test_any_token_that_ends_a_text_ends_it(tokenizer: Tokenizer) -> None:
    the = tokenizer.encode("the").tolist()
    engine: Any = SimpleNamespace(generate=lambda prompt, choose, limit: iter([*the, 2, *the]))
    conversation = Conversation(engine, tokenizer, Sampler(0), 99, 9, ends=[2])
    assert "".join(conversation.ask("the")) == "the"
    model = LmEvalModel(engine, tokenizer, 99, 200, ends=[2])
    assert model.generations([("the", {"until": ["x"], "max_gen_toks": 8})]) == ["the"]


def test_what_an_export_adds_is_checked(monkeypatch: pytest.MonkeyPatch, source_of: Callable, tmp_path: Path) -> None:
    monkeypatch.setattr("lost.interop.special_tokens._adding_nothing", lambda content: content)
    with pytest.raises(ExportError, match=r"gives the text 'a' the token ids \[0, .*without tokens around it"):
        export(source_of(TRAINED), tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="the authority on GGUF files isn't installed")
@pytest.mark.parametrize(("state", "begin"), [(TRAINED, 1), (TrainState(), 0)])
def test_llama_begins_with_it(source_of: Callable, tmp_path: Path, state: TrainState, begin: int) -> None:
    assert export_gguf(source_of(state), tmp_path / "out", "float32").agreements
    found = fields(tmp_path / "out" / "model-f32.gguf")
    assert (found["bos_token_id"], found["eos_token_id"], found["add_bos_token"]) == (begin, 1, True)
    assert found["chat_template"].endswith(TEMPLATE)
    assert found["chat_template"].startswith('{% set bos_token = "<|begin|>" %}') is (begin == 1)


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="the authority on GGUF files isn't installed")
def test_llama_adds_no_token_that_the_tokenizer_does_not(
    config: Callable[..., Config], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """As SmolLM2's: the token begins a turn, and no text."""
    document = {**read(tmp_path, "tokenizer.json"), "post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    settings = config(model={"vocab_size": tokenizer.vocab_size}, projection={"kind": "dense"})
    source = write(tmp_path / "source", initial_values(settings), (), settings, TrainState(), load_own(tmp_path))
    export_gguf(source, tmp_path / "out", "float32")
    found = fields(tmp_path / "out" / "model-f32.gguf")
    assert (found["bos_token_id"], found["add_bos_token"]) == (0, False)


def test_ollama_stops_at_every_token_that_ends_a_text(
    config: Callable[..., Config], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """A GGUF file names one; the line beside it, what is no text of a line left out."""
    settings = config(model={"vocab_size": tokenizer.vocab_size}, projection={"kind": "dense"})
    several = with_ends(tokenizer, [1, 2])
    source = write(tmp_path / "source", initial_values(settings), (), settings, TrainState(), several)
    export_gguf(source, tmp_path / "out", "float32")
    assert (tmp_path / "out" / "Modelfile").read_text().count("PARAMETER stop ") == 1
    assert 'PARAMETER stop "<|turn|>"\n' in (tmp_path / "out" / "Modelfile").read_text()
    for hostile in ('a"\nADAPTER b', "a\nADAPTER b", "a\\"):
        assert "stop" not in modelfile("m.gguf", tokenizer, 64, [hostile])


def fields(file: Path) -> Mapping[str, Any]:
    read = gguf.GGUFReader(file).fields
    stem = "tokenizer.ggml."
    found = {name.removeprefix(stem): each.contents() for name, each in read.items() if name.startswith(stem)}
    template = read.get("tokenizer.chat_template")
    return {**found, "chat_template": template.contents() if template else None}


def test_whose_weights_they_were_at_first() -> None:
    """A model that was imported stays so through trainings, averages and conversions; drawn weights stay ours."""
    theirs = Origin("folder", None, "")
    ours = Origin("run", 9, "", data="a set's fingerprint")
    for first, expected in ((theirs, True), (replace(ours, step=0, data=""), True), (ours, False)):
        later = replace(ours, before=first)
        for origin in (first, later, Origin("a + b", None, "", parts=(later, ours))):
            assert imported(replace(TRAINED, origin=origin)) is expected
    assert imported(TrainState())
    assert not imported(TRAINED)
    assert not imported(TrainState(data="a set's fingerprint"))  # the first checkpoint of a run
