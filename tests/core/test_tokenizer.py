"""Hugging Face's tokenizers: ids of their library, end-of-text found or named, never made of a document's text."""

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Reference

from lost.checkpoint import open_checkpoint
from lost.data.dataset import Dataset
from lost.errors import DataError, MissingPackageError
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.tokenizer import load_tokenizer

ODD = "tab\there  two spaces\n\n\ttrailing \n\u00e9\u00df \u4f60\u597d \U0001f600 \u200d \u2581 \r\n x=1234567890\n"
END, TURN = "<|endoftext|>", "<|turn|>"


def byte_level(*special: str) -> Reference:
    """A tokenizer like GPT-2's: byte-level BPE."""
    made = Reference(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the rank of the layer and the weight"] * 50, trainer)
    return made


def saved(folder: Path, made: Reference, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def gpt(tmp_path: Path) -> Path:
    """Its tokenizer pads, truncates and puts tokens around a text, none of which is wanted here."""
    made = byte_level(END, TURN)
    made.enable_padding(length=64)
    made.enable_truncation(3)
    made.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return saved(tmp_path / "gpt", made, eos_token={"content": END}, chat_template="{{ messages }}", model_type="x")


def test_ids_are_those_of_the_library_and_text_comes_back(gpt: Path) -> None:
    ours, theirs = load_tokenizer(gpt), byte_level(END, TURN)
    for text in (ODD, "the rank of the layer", "", "\0"):
        assert ours.encode(text).tolist() == theirs.encode(text).ids
        assert ours.decode(ours.encode(text).tolist()) == text
    ids = ours.encode(ODD).tolist()
    assert "".join(ours.stream(ids, [ours.end_of_text])) == ODD
    assert "".join(ours.stream(20 * ids, 40 * ids)) == 20 * ODD
    assert (ours.end_of_text, ours.vocab_size) == (theirs.token_to_id(END), theirs.get_vocab_size())


def test_long_documents_are_encoded_in_parts(gpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the rank\nof " * 30, ODD, "weight"]
    tokenizer = load_tokenizer(gpt)
    whole = tokenizer.encode_documents(texts).tolist()
    assert whole.count(tokenizer.end_of_text) == 3
    monkeypatch.setattr("lost.tokenizer.base._LONGEST", 100)
    assert tokenizer.encode_documents(texts).tolist() == whole


def test_added_tokens_count_and_gaps_in_the_ids_too(gpt: Path, tmp_path: Path) -> None:
    made = byte_level(END)
    made.add_tokens(["<|far|>"])
    assert load_tokenizer(saved(tmp_path, made)).vocab_size == made.token_to_id("<|far|>") + 1
    words = Reference(models.WordLevel({"a": 0, "</s>": 1, "[UNK]": 2, "b": 999}, unk_token="[UNK]"))
    words.add_special_tokens(["</s>"])
    assert load_tokenizer(saved(tmp_path, words)).vocab_size == 1000


def test_special_tokens_in_a_document_are_text(gpt: Path) -> None:
    tokenizer = load_tokenizer(gpt)
    text = f"the{END}rank{TURN}"
    ids = tokenizer.encode(text).tolist()
    assert tokenizer.decode(ids) == text
    assert not {0, 1} & set(ids)
    meant = tokenizer.encode(text, special_tokens=True).tolist()
    assert [token for token in meant if token < 2] == [0, 1]
    assert tokenizer.decode(meant) == "therank"


def test_separator_among_the_ordinary_tokens_is_text_too(tmp_path: Path) -> None:
    made = byte_level()
    made.add_tokens([AddedToken("</s>", special=False)])
    tokenizer = load_tokenizer(saved(tmp_path, made))
    assert tokenizer.end_of_text not in tokenizer.encode("a</s>b")
    assert tokenizer.decode(tokenizer.encode("a</s>b").tolist()) == "a</s>b"


def test_special_tokens_among_the_pieces_of_a_model_are_text_too(tmp_path: Path) -> None:
    """As in T5: `</s>` is a piece like others, so that the library makes it of text even if told not to."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("<pad>", 0.0), *((piece, -2.0) for piece in "ab</spd>")]
    made = Reference(models.Unigram(pieces, unk_id=0))
    made.add_special_tokens(["<unk>", "</s>", "<pad>"])
    made.encode_special_tokens = True
    assert 1 in made.encode("a</s>b").ids
    tokenizer = load_tokenizer(saved(tmp_path, made))
    text = "a</s>b<pad></s></s>"
    assert "".join(tokenizer.decode([token]) for token in tokenizer.encode(text)) == text
    assert tokenizer.encode("a\u4f60").tolist()[-1] == 0  # a character that it doesn't know
    with pytest.raises(DataError, match="encodes the text 'a' to the token"):
        load_tokenizer(saved(tmp_path, made), "a")


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"])
def test_well_known_end_of_text(tmp_path: Path, token: str) -> None:
    tokenizer = load_tokenizer(saved(tmp_path, byte_level("<x>", token)) / "tokenizer.json")
    assert tokenizer.end_of_text == 1


def test_end_of_text_said_beside_it_and_on_request(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level(END, "<done>", "<mine>"), eos_token="<done>")
    first, second = load_tokenizer(folder), load_tokenizer(folder, "<mine>")
    assert (first.end_of_text, second.end_of_text) == (1, 2)
    assert first.fingerprint != second.fingerprint
    second.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == second.fingerprint


def test_what_is_kept_of_the_configuration(gpt: Path, tmp_path: Path) -> None:
    (gpt / "chat_template.jinja").write_text("newer")
    load_tokenizer(gpt).save(tmp_path)
    kept = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "chat_template": "newer"}
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == kept
    assert (tmp_path / "tokenizer.json").read_bytes() == (gpt / "tokenizer.json").read_bytes()
    assert load_tokenizer(tmp_path).chat_template == "newer"


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("tokenizer.json", b"{", "is not a tokenizer.json"),
        ("tokenizer.json", b"[]", "is not a tokenizer.json"),
        ("tokenizer.json", b"{}", "is not a tokenizer.json"),
        ("tokenizer.json", b"\x00\xff", "is not a tokenizer.json"),
        ("tokenizer_config.json", b"{", "can't be read"),
        ("tokenizer_config.json", b'{"eos_token": "<gone>"}', "has no token '<gone>'"),
        ("tokenizer_config.json", b'{"eos_token": "\\ud800"}', "doesn't say which token ends a text"),
        ("tokenizer_config.json", b'{"eos_token": null}', "doesn't say which token ends a text"),
        ("tokenizer_config.json", b"[]", "it holds a list, not an object"),
        ("chat_template.jinja", b"\xff", "expected text in UTF-8"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    folder = saved(tmp_path, byte_level("<x>"), eos_token="<x>")
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=named):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (b"\4\0\0\0" + bytes(4) + b"a\0" + b"b" * 5000 + b"\0", r"its normalizer makes a text up to 5e\+03 times"),
        (b"\xff\0\0\0" + bytes(4), "precompiled_charsmap has 8 bytes, fewer than its trie's"),
        (b"\4", "precompiled_charsmap has 1 bytes, fewer"),
        (None, "precompiled_charsmap is None, not text"),
    ],
)
def test_a_table_of_replacements_that_multiplies_a_text(tmp_path: Path, table: bytes | None, named: str) -> None:
    folder = saved(tmp_path, byte_level("<x>"), eos_token="<x>")
    document = json.loads((folder / "tokenizer.json").read_text())
    encoded = table if table is None else base64.b64encode(table).decode()
    step = {"type": "Precompiled", "precompiled_charsmap": encoded}
    document["normalizer"] = {"type": "Sequence", "normalizers": [step]}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=named):
        load_tokenizer(folder)


def test_a_table_of_replacements_of_sentencepiece(tmp_path: Path) -> None:
    """The one that most models have, in which no letter becomes more than 33 bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the rank of the layer"] * 9), model_writer=model, vocab_size=16, minloglevel=2
    )
    table = ModelProto.FromString(model.getvalue()).normalizer_spec.precompiled_charsmap
    made = byte_level("<x>")
    made.normalizer = normalizers.Precompiled(table)
    assert load_tokenizer(saved(tmp_path, made, eos_token="<x>")).encode("rank").tolist() == made.encode("rank").ids


def test_an_end_that_no_text_can_be_is_no_token(gpt: Path) -> None:
    """What a shell hands over for a byte that isn't UTF-8."""
    with pytest.raises(DataError, match=r"has no token '\\udcff'"):
        load_tokenizer(gpt, "\udcff")


def test_library_missing_and_option_without_effect(
    gpt: Path, prepared: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="is a sentencepiece model"):
        load_tokenizer(prepared.path, "</s>")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingPackageError, match=r"-e '\.\[tokenizers\]'"):
        load_tokenizer(gpt)
    assert load_tokenizer(prepared.path)


def test_from_text_to_a_checkpoint(gpt: Path, text_folder: Path, lost: Any, tiny_yaml: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "data", tmp_path / "run"
    answer = lost("prepare", text_folder, "--out", out, "--tokenizer", gpt)
    assert answer.code == 0, answer.err
    data = Dataset(out)
    assert (out / "tokenizer.json").exists()
    assert not (out / "tokenizer.model").exists()
    assert data.tokenizer.fingerprint == load_tokenizer(gpt).fingerprint
    answer = lost("train", tiny_yaml, "--data", out, "--out", run, "--set", "schedule.steps=2")
    assert answer.code == 0, answer.err
    found = open_checkpoint(run / "checkpoints" / "step-00000002")
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(found.files)
    assert found.config.model.vocab_size == data.tokenizer.vocab_size
    assert lost("verify", run).code == 0
    assert lost("eval", run).code == 0
    assert lost("generate", run, "--prompt", "the", "--max-tokens", 3).code == 0
    again = tmp_path / "again"
    assert lost("prepare", text_folder, "--out", again, "--tokenizer", found.path).code == 0
    assert Dataset(again).fingerprint == data.fingerprint


def test_tokenizer_of_a_set_swapped(gpt: Path, text_folder: Path, tmp_path: Path) -> None:
    prepare(Sources([text_folder]), tmp_path / "out", load_tokenizer(gpt), 0.1)
    load_tokenizer(gpt, TURN).save(tmp_path / "out")
    with pytest.raises(DataError, match=r"tokenizer\.json is not the one"):
        Dataset(tmp_path / "out")
