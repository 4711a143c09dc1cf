"""Exported folders, checked in numpy: merged layers, described layers, converted tokenizers."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from lost.checkpoint import Checkpoint, Origin, TrainState, write
from lost.config import Config
from lost.data.dataset import Dataset
from lost.errors import ConfigError, DataError
from lost.interop.layout import is_plain, renamed, stored_layers
from lost.interop.to_hf.card import card
from lost.interop.to_hf.check import compare
from lost.interop.to_hf.dense import merged, merged_config
from lost.interop.to_hf.description import model_config
from lost.interop.to_hf.pieces import read_pieces
from lost.interop.to_hf.tokenizer_files import tokenizer_files
from lost.model import reference
from lost.model.init import initial_values
from lost.prepare.examples import prepare_examples
from lost.tokenizer.comparison import AWKWARD
from lost.tokenizer.sentencepiece import PieceTokenizer

LINEAR = (
    {"kind": "lost", "activation": "none"},
    {"kind": "lost", "activation": "none", "learn_gamma": True, "gamma": 0.4, "activation_at": "output"},
    {"kind": "lowrank"},
    {"kind": "cola", "activation": "none", "keep_gate_activation": False},
    {"kind": "sltrain"},
    {"kind": "dense"},
    {"kind": "lowrank", "overrides": {"*.mlp.*": {"kind": "sltrain"}, "*.1.self_attn.*": {"kind": "dense"}}},
)


@pytest.mark.parametrize("projection", LINEAR)
def test_a_merged_model_computes_the_same(config: Callable[..., Config], projection: dict) -> None:
    settings = config(projection=projection)
    values = dict(initial_values(settings.replace("model", initializer_range=0.3)))
    twin = merged_config(settings)
    found = dict(merged(settings, twin, values.items()))
    assert is_plain(twin)
    assert {name: array.dtype.name for name, array in found.items()} == dict.fromkeys(found, "float32")
    tokens = np.random.default_rng(0).integers(0, 19, (2, 9))
    exact = {n: v if v.dtype == np.int32 else v.astype(np.float64) for n, v in values.items()}
    expected = reference.logits(settings, exact, tokens)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(reference.logits(twin, found, tokens), expected, atol=1e-5)


def test_what_bends_is_not_merged(config: Callable[..., Config]) -> None:
    bent = config(projection={"activation": "none", "overrides": {"*.0.mlp.up_proj": {"activation": "gelu"}}})
    with pytest.raises(ConfigError, match=r"1 projections have an activation inside, model\.layers\.0\.mlp\.up_proj"):
        merged_config(bent)


def test_layers_are_described_with_every_choice_resolved(config: Callable[..., Config]) -> None:
    settings = config(
        projection={
            "align": 8,
            "keep_gate_activation": False,
            "overrides": {
                "*.1.mlp.*": {"kind": "cola", "rank": 3, "activation": "none"},
                "*.q_proj": {"kind": "sltrain", "density": 0.5, "alpha": 8.0},
                "*.v_proj": {"learn_gamma": True, "activation_at": "inner"},
            },
        }
    )
    found = stored_layers(settings)
    lost = {"kind": "lost", "rank": 4, "channels": 4, "gamma": 0.7, "activation": "silu", "activation_at": "low_rank"}
    assert found["self_attn.k_proj"] == lost
    assert found["self_attn.v_proj"] == {**lost, "gamma": None, "activation_at": "inner"}
    assert found["self_attn.q_proj"] == {"kind": "sltrain", "rank": 4, "scale": 2.0, "entries": 128}
    assert found["mlp.gate_proj"] == {**lost, "gate_activation": False}
    thin = {"kind": "lowrank", "rank": 3, "activation": "none"}
    assert found["layers.1.mlp.up_proj"] == thin
    assert found["layers.1.mlp.gate_proj"] == {**thin, "gate_activation": True}
    assert len(found) == 7 + 3
    described = model_config(settings, 1, "bfloat16")
    assert described["rope_parameters"]["rope_theta"] == described["rope_theta"] == 10_000.0
    assert (described["head_dim"], described["num_key_value_heads"]) == (4, 2)


def test_a_dense_model_is_a_llama(config: Callable[..., Config]) -> None:
    described = model_config(config(projection={"kind": "dense"}), 1, "float32")
    assert described["architectures"] == ["LlamaForCausalLM"]
    assert not described.keys() & {"auto_map", "model_file", "projections"}


def test_thin_matrices_are_layers_of_their_own(config: Callable[..., Config]) -> None:
    names = ["model.layers.0.mlp.down_proj.down", "model.layers.0.mlp.down_proj.weight", "a.up_proj.channels", "a.up"]
    found = [name for name, _ in renamed(config(), ((name, np.zeros(1)) for name in names))]
    assert found == [f"{names[0]}.weight", names[1], names[2], "a.up.weight"]


TEXTS = (*AWKWARD, *("".join(np.random.default_rng(n).choice(list(" \n\tab=-\u2581é😀<>/s"), 40)) for n in range(300)))


def test_a_converted_tokenizer_gives_the_same_ids_and_text(prepared: Dataset) -> None:
    own = prepared.tokenizer
    files = tokenizer_files(own, 77)
    theirs = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    theirs.encode_special_tokens = True
    for text in TEXTS:
        ids = own.encode(text).tolist()
        assert theirs.encode(text, add_special_tokens=False).ids == ids, text
        assert theirs.decode(ids) == own.decode(ids)
    assert files["tokenizer.model"] == own.files["tokenizer.model"]
    config = json.loads(files["tokenizer_config.json"])
    assert (config["eos_token"], config["bos_token"], config["model_max_length"]) == ("</s>", "</s>", 77)


def piece_model(**options: object) -> PieceTokenizer:
    model = io.BytesIO()
    lines = [f"word{n} some text, the rank of a layer {n * 7}" for n in range(500)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=200, minloglevel=2, **options
    )
    return PieceTokenizer(model.getvalue(), "model")


def test_sentencepieces_own_defaults_convert_too() -> None:
    """A space in front, spaces run together, characters normalised: none of which our training does."""
    own = piece_model(model_type="bpe", byte_fallback=False).beginning_with_nothing()
    theirs = tokenizers.Tokenizer.from_str(tokenizer_files(own, 10)["tokenizer.json"].decode())
    theirs.encode_special_tokens = True
    for text in TEXTS:
        assert theirs.encode(text).ids == own.encode(text).tolist(), text


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_models_file_is_read_as_sentencepieces_own_reader_reads_it(kind: str) -> None:
    content = piece_model(model_type=kind, user_defined_symbols=["<sep>"], unk_id=1, bos_id=0).files["tokenizer.model"]
    found, proto = read_pieces(content), sentencepiece_model_pb2.ModelProto.FromString(content)
    assert [(each.text, each.score, each.kind) for each in found.pieces] == [
        (each.piece, each.score, each.type) for each in proto.pieces
    ]
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    assert (found.kind, found.unknown, found.byte_fallback) == (trainer.model_type, 1, trainer.byte_fallback)
    assert (found.characters, found.dummy_prefix) == (normalizer.precompiled_charsmap, normalizer.add_dummy_prefix)
    assert found.collapse_spaces == normalizer.remove_extra_whitespaces


def test_a_unigram_model_is_refused() -> None:
    with pytest.raises(DataError, match="is not BPE"):
        tokenizer_files(piece_model(model_type="unigram"), 10)


def test_compared_by_more_than_rounding() -> None:
    from lost.errors import ExportError

    ours = np.array([[-1.0, -8.0]])
    assert compare(ours, ours + 1e-5, "their") == pytest.approx(1e-5)
    for wrong in (ours + 0.01, np.full((1, 2), np.nan)):
        with pytest.raises(ExportError, match="expected at most"):
            compare(ours, wrong, "their")


def test_the_card_has_the_runs_numbers(config: Callable[..., Config], prepared: Dataset, tmp_path: Path) -> None:
    settings = config(model={"vocab_size": 320}, data={"path": str(prepared.path)}, projection={"gamma": 0.61},
                      schedule={"steps": 9, "warmup_steps": 1})  # fmt: skip
    path = tmp_path / "nightly" / "checkpoints" / "step-00000007"
    source: Checkpoint = write(
        path, initial_values(settings), (), settings, TrainState(step=7, tokens=1234567), prepared.tokenizer
    )
    rows = (
        {"step": 5, "loss": 3.125},
        {"step": 7, "validation_loss": 2.5, "bits_per_byte": 1.75},
        {"step": 9, "loss": 1},
    )
    metrics = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "los'
    (tmp_path / "nightly" / "metrics.jsonl").write_text(metrics)
    text = card(source, settings, "float32")
    assert text.startswith("---\nlibrary_name: transformers\n")
    numbers = ("1,234,567", "3.1250", "2.5000", "1.7500", "0.61", "| 1 step |")
    for part in ("# nightly", *numbers, "trust_remote_code=True"):
        assert part in text
    assert f"{prepared.split('train').documents} documents" in text
    assert "Licence: none was chosen yet" in text
    assert str(tmp_path) not in text
    assert "trust" not in card(
        source, merged_config(config(projection={"kind": "dense"}, model={"vocab_size": 320})), "float32"
    )
    imported = write(tmp_path / "imported", initial_values(settings), (), settings, TrainState(), prepared.tokenizer)
    assert "It was imported" in card(imported, settings, "float32")
    assert "## Recipe" not in card(imported, settings, "float32")


def test_the_card_says_what_was_measured_and_what_kind_of_model_it_is(
    config: Callable[..., Config], prepared: Dataset, tmp_path: Path
) -> None:
    """A figure of a part of the text isn't the result; who was tuned on conversations is no base model."""
    lines = {
        "chat": {"messages": [{"role": "user", "content": "the"}, {"role": "assistant", "content": "rank"}]},
        "completions": {"prompt": "the", "completion": " rank"},
    }
    sets = {"text": prepared.path}
    for name, line in lines.items():
        files = [tmp_path / f"{name}.jsonl", tmp_path / f"{name}-valid.jsonl"]
        for file in files:
            file.write_text(json.dumps(line))
        sets[name] = tmp_path / name
        prepare_examples(files[:1], sets[name], prepared.tokenizer, files[1:])
    texts = {}
    for name, path in {**sets, "elsewhere": tmp_path / "nowhere"}.items():
        settings = config(model={"vocab_size": 320}, data={"path": str(path)}, train={"eval_tokens": 1000})
        origin = None if name == "text" else Origin("elsewhere", 1, "")
        progress = TrainState(step=7, validation_loss=2.5, origin=origin)
        tokenizer = Dataset(path).tokenizer if name in sets else prepared.tokenizer
        source = write(tmp_path / f"{name}-run", initial_values(settings), (), settings, progress, tokenizer)
        texts[name] = card(source, settings, "float32")
        assert "| validation loss, of no more than its first 1,000 tokens | 2.5000 |" in texts[name]
    assert "It is a base model" in texts["text"]
    assert 'tokenizer("Once"' in texts["text"]
    assert "tuned on conversations" in texts["chat"]
    assert "apply_chat_template" in texts["chat"]
    assert "--ignore-chat-template" not in texts["chat"]
    assert "tuned on prompts and their completions" in texts["completions"]
    for name in ("chat", "completions", "elsewhere"):
        assert "base model" not in texts[name]
    settings = config(model={"vocab_size": 320}, train={"eval_tokens": 1000})
    source = write(tmp_path / "x" / "checkpoints" / "step-00000007", initial_values(settings), (), settings,
                   TrainState(step=7), prepared.tokenizer)  # fmt: skip
    (tmp_path / "x" / "metrics.jsonl").write_text('{"step": 5, "validation_loss": 2.5, "bits_per_byte": 1.5}\n')
    assert "| validation loss at step 5 | 2.5000 |" in card(source, settings, "float32")


def test_layers_that_read_earlier_tokens_do_not_merge(config: Callable[..., Config]) -> None:
    settings = config(projection={"kind": "lost", "activation": "none", "short_conv_width": 3})
    with pytest.raises(ConfigError, match=r"14 projections read earlier tokens, .*width = 3\), so no matrix"):
        merged_config(settings)
