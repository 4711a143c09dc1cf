"""Models with another vocabulary: rows of tokens that both know, means for new ones, and what a text needs alone."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import sentencepiece
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Reference

from lost.errors import DataError
from lost.interop.to_hf.pieces import read_pieces
from lost.interop.to_hf.tokenizer_files import tokenizer_files
from lost.prepare.sources import Sources
from lost.reshape.vocabulary.pruning import prune
from lost.reshape.vocabulary.rows import Rows, corresponding
from lost.tokenizer import Tokenizer, load_tokenizer, same_ids, train_tokenizer
from lost.tokenizer.base import Entry
from lost.tokenizer.chat_template import PLAIN, template_of
from lost.tokenizer.comparison import AWKWARD
from lost.tokenizer.sentencepiece import PieceTokenizer

END, TURN = "<|endoftext|>", "<|turn|>"
WORDS = "the rank of the layer, and the weights of the channels that it keeps: 12 of 345 in größten Wörtern\n"
OTHER = "sparse models are trained with tokens; a step takes the data from a dense or a low rank text \U0001f600\n"
KEPT = "the weights of the rank: 345 channels\n"


def pieces(entries: int = 500, text: str = WORDS + OTHER, **changes: Any) -> PieceTokenizer:
    """A sentencepiece model as ours, or with another setting of the trainer."""
    if not changes:
        return train_tokenizer([text] * 20, entries)
    model = io.BytesIO()
    settings = {"model_type": "bpe", "byte_fallback": True, "hard_vocab_limit": False, "minloglevel": 2} | changes
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text] * 20), model_writer=model, vocab_size=entries, **settings
    )
    return PieceTokenizer(model.getvalue(), "a test's")


def saved(folder: Path, made: Reference, **config: Any) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END, **config}))
    return load_tokenizer(folder)


def byte_level(folder: Path, **config: Any) -> Tokenizer:
    made = Reference(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([WORDS + OTHER] * 9, trainer)
    made.add_tokens([AddedToken(TURN, special=True), AddedToken("<keep>", normalized=False)])
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {TURN}", special_tokens=[(TURN, made.token_to_id(TURN))]
    )
    return saved(folder, made, **config)


def unigram(folder: Path) -> Tokenizer:
    made = Reference(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", END], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator([WORDS + OTHER] * 9, trainer)
    return saved(folder, made)


def word_pieces(folder: Path) -> Tokenizer:
    made = Reference(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        [WORDS + OTHER] * 9,
        trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]", END], show_progress=False),
    )
    return saved(folder, made)


def exported(folder: Path) -> Tokenizer:
    folder.mkdir()
    for name, content in tokenizer_files(pieces(), 64).items():
        (folder / name).write_bytes(content)
    (folder / "tokenizer.model").unlink()
    return load_tokenizer(folder)


KINDS: dict[str, Callable[[Path], Tokenizer]] = {
    "pieces as ours": lambda folder: pieces(),
    "pieces behind a space": lambda folder: pieces(400, add_dummy_prefix=True),
    "pieces without bytes": lambda folder: pieces(150, byte_fallback=False),
    "pieces by probability": lambda folder: pieces(400, model_type="unigram", user_defined_symbols=["<keep>"]),
    "bytes that merge": byte_level,
    "json by probability": unigram,
    "words' pieces": word_pieces,
    "an export's": exported,
}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return KINDS[request.param](tmp_path / "tokenizer")


@pytest.fixture
def kept_text(tmp_path: Path) -> Sources:
    (tmp_path / "kept.txt").write_text(KEPT * 3)
    return Sources([tmp_path / "kept.txt"])


def test_entries_make_the_text(tokenizer: Tokenizer) -> None:
    """Of all kinds alike: what tokens add to a text, joined, is the text, behind what a tokenizer puts before it."""
    entries = tokenizer.entries()
    assert len(entries) == tokenizer.vocab_size
    assert entries[tokenizer.end_of_text].kind == "special"
    for text in (WORDS.strip().lower().replace("ö", "o"), OTHER[:40]):
        joined = b"".join(entries[number].text for number in tokenizer.encode(text).tolist()).decode()
        assert joined.replace(" ", "") == text.replace(" ", "")
        if tokenizer.decode(tokenizer.encode(text).tolist()) == text:
            assert joined.removeprefix(" ") == text


def test_entries_of_any_other_kind_are_told_by_what_they_decode_to() -> None:
    """An extension's, say: text alone, as parts of characters and names can't be told."""
    made = pieces()
    texts = {number: each for number, each in made.entries().items() if each.kind == "text"}
    found = Tokenizer.entries(made)
    assert found.items() >= texts.items()
    assert all(each.text < b"\x80" for number, each in found.items() if number not in texts)  # bytes that are letters


def test_a_pruned_tokenizer_reads_the_text_as_before(tokenizer: Tokenizer, kept_text: Sources) -> None:
    pruned, rows = prune(tokenizer, kept_text)
    order = [number for (number,) in rows.old]
    assert len(set(order)) == pruned.vocab_size < tokenizer.vocab_size
    assert order[pruned.end_of_text] == tokenizer.end_of_text
    for text in (KEPT * 3, KEPT):
        assert [order[number] for number in pruned.encode(text)] == tokenizer.encode(text).tolist()
    before, after = tokenizer.entries(), pruned.entries()
    assert [after[new] for new in range(len(order))] == [before[old] for old in order]
    for text in (*AWKWARD, OTHER, WORDS):
        assert pruned.decode(pruned.encode(text).tolist()) == tokenizer.decode(tokenizer.encode(text).tolist())
    assert any(len(pruned.encode(text)) > len(tokenizer.encode(text)) for text in (OTHER, WORDS))


def test_pruned_again_and_saved(tokenizer: Tokenizer, kept_text: Sources, tmp_path: Path) -> None:
    """What is written opens, with the same ids, and needs nothing more."""
    pruned, _ = prune(tokenizer, kept_text)
    (tmp_path / "saved").mkdir()
    pruned.save(tmp_path / "saved")
    assert same_ids(load_tokenizer(tmp_path / "saved"), pruned)
    with pytest.raises(DataError, match="the text needs all"):
        prune(pruned, kept_text)


def test_added_tokens_and_those_behind_a_text_are_numbered_anew(tmp_path: Path, kept_text: Sources) -> None:
    pruned, _ = prune(byte_level(tmp_path / "all"), kept_text)
    read = Reference.from_str(pruned.files["tokenizer.json"].decode())
    for token in (TURN, "<keep>"):
        assert read.token_to_id(token) < pruned.vocab_size
    for token in json.loads(read.to_str())["added_tokens"]:
        assert token in json.loads(pruned.files["tokenizer.json"])["added_tokens"]
    ids = read.encode(KEPT).ids
    assert ids == [*pruned.encode(KEPT), read.token_to_id(TURN)]


def test_a_sentencepiece_file_says_where_its_own_symbols_are(kept_text: Sources) -> None:
    """By their new ids: an export reads the unknown piece's there."""
    pruned, _ = prune(pieces(400, unk_id=320, eos_id=330, bos_id=-1), kept_text)
    model = read_pieces(pruned.files[PieceTokenizer.FILE])
    assert model.unknown < pruned.end_of_text < pruned.vocab_size == len(model.pieces)
    assert model.pieces[model.unknown].text == "<unk>"


def test_their_number_is_a_multiple_of_eight(kept_text: Sources) -> None:
    assert prune(pieces(), kept_text)[0].vocab_size % 8 == 0


def test_what_a_chat_template_writes_stays(tmp_path: Path, kept_text: Sources) -> None:
    plain = pieces(400, WORDS + "".join(f"<|user|>\n{word}\n<|assistant|>\n{word}s\n" for word in OTHER.split()))
    talks = plain.with_chat_template(PLAIN)
    marks = template_of(talks).question([{"role": "user", "content": "?"}])
    silent, speaks = prune(plain, kept_text)[0], prune(talks, kept_text)[0]
    assert speaks.chat_template == PLAIN
    assert len(speaks.encode(marks)) == len(talks.encode(marks)) < len(silent.encode(marks))


def test_merges_that_lead_to_a_kept_token_stay(kept_text: Sources, tmp_path: Path) -> None:
    """A token is only made if what it is made of is there: the model is of pairs."""
    tokens = [END, *"abcdefghijklm", "ab", "abc", "bc", "ca"]
    made = Reference(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    document = json.loads(made.to_str())
    document["model"]["merges"] = [["a", "b"], ["ab", "c"], ["b", "c"], ["c", "a"]]
    tokenizer = saved(tmp_path / "pairs", Reference.from_str(json.dumps(document)))
    (tmp_path / "kept.txt").write_text("abcabc")
    pruned, rows = prune(tokenizer, Sources([tmp_path / "kept.txt"]))
    assert rows.old == [[number] for number in range(16)]
    assert json.loads(pruned.files["tokenizer.json"])["model"]["merges"] == [["a", "b"], ["ab", "c"]]


def rows_between(old: Tokenizer, new: Tokenizer, table_rows: int | None = None) -> dict[bytes, list[int]]:
    """The old rows of each new token, by its text."""
    rows, entries = corresponding(old, new, table_rows or old.vocab_size), new.entries()
    return {each.text: list(rows.old[number]) for number, each in entries.items()}


def test_tokens_that_both_know_keep_their_rows(tmp_path: Path) -> None:
    """Between kinds too, whose files spell a space and bytes in other ways; end-of-text by any name."""
    old, new = pieces(), byte_level(tmp_path / "new")
    spelled = old.entries()
    both = rows_between(old, new)
    assert both[b" the"] == [number for number, each in spelled.items() if each.text == b" the"]
    assert both[END.encode()] == [old.end_of_text]
    assert both[b"a"] == [number for number, each in spelled.items() if each == Entry("text", b"a")]
    assert both[b"\xf0"] == [number for number, each in spelled.items() if each.text == b"\xf0"]
    back = corresponding(new, old, new.vocab_size)
    assert back.old[old.end_of_text] == [new.end_of_text]
    a = [number for number, each in new.entries().items() if each.text == b"a"]
    byte_and_letter = [number for number, each in spelled.items() if each.text == b"a"]
    assert [back.old[number] for number in byte_and_letter] == [a, a]


def test_new_tokens_are_made_of_what_their_text_was(tokenizer: Tokenizer, tmp_path: Path) -> None:
    new = pieces(440, "behindwords weightsofranks " * 9 + WORDS)
    entries = tokenizer.entries()
    made = {text: numbers for text, numbers in rows_between(tokenizer, new).items() if len(numbers) > 1}
    told = {text: [entries[number] for number in numbers] for text, numbers in made.items()}
    known = {text: each for text, each in told.items() if "special" not in {entry.kind for entry in each}}
    assert len(known) > 40
    wrong = {text: each for text, each in known.items() if b"".join(entry.text for entry in each) != text}
    assert all(
        text.lower() != text or b"chan" in text for text in wrong
    )  # words' pieces are of lower case, whole words


def test_special_tokens_are_known_by_name_else_they_start_as_the_mean_of_all(tmp_path: Path) -> None:
    old = byte_level(tmp_path / "old")
    made = Reference.from_str(old.files["tokenizer.json"].decode())
    made.add_special_tokens(["<|more|>"])
    both = rows_between(old, saved(tmp_path / "new", made))
    assert both[TURN.encode()] == [next(n for n, each in old.entries().items() if each.text == TURN.encode())]
    assert both[b"<|more|>"] == []


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_rows_are_copied_to_the_bit_or_means(dtype: type) -> None:
    table = np.random.default_rng(0).normal(size=(7, 5)).astype(dtype)
    made = Rows([[3], [0, 1, 6], [], [3]], 3).of(table)
    assert made.dtype == table.dtype
    wide = table.astype(np.float64)
    assert made[0].tobytes() == made[3].tobytes() == table[3].tobytes()
    assert made[1].tobytes() == wide[[0, 1, 6]].mean(0).astype(dtype).tobytes()
    assert made[2].tobytes() == wide.mean(0).astype(dtype).tobytes()


def test_a_row_that_two_tokens_have_is_kept_once() -> None:
    assert Rows([[3], [3], [1, 2], [], [4], [5]], 5).copied == 2


def test_a_padded_table_stays_padded_with_rows_that_no_token_had() -> None:
    old, new = pieces(500), pieces(459)
    padded = corresponding(old, new, 512)
    assert (len(padded.old), padded.tokens) == (512, 459)
    assert list(padded.old[459:]) == [[500 + number % 12] for number in range(53)]
    assert len(corresponding(old, new, 500).old) == 459
    assert len(corresponding(old, new, 504).old) == 464  # to a multiple of 8, as the old one


def test_ids_far_apart_are_refused(tmp_path: Path) -> None:
    """Each id is a row of the model: a stranger's file could ask for billions."""
    words = Reference(models.WordLevel({"a": 0, END: 1, "[UNK]": 2, "b": 3}, unk_token="[UNK]"))
    far = saved(tmp_path / "far", words).files["tokenizer.json"].replace(b'"b": 3', b'"b": 2000000000')
    (tmp_path / "far" / "tokenizer.json").write_bytes(far)
    with pytest.raises(DataError, match="4 tokens, and ids up to 2,000,000,000"):
        corresponding(pieces(), load_tokenizer(tmp_path / "far"), 500)


def test_tokens_absurdly_long_are_refused(tmp_path: Path) -> None:
    long = "ab" * 2000
    made = Reference(models.BPE({END: 0, "a": 1, "b": 2, "ab": 3, long: 4}, [], ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (tmp_path / "long.txt").write_text(long)
    with pytest.raises(DataError, match="a token of 4,000 characters"):
        prune(saved(tmp_path / "long", made), Sources([tmp_path / "long.txt"]))


def test_vocabularies_that_are_not_pruned(tmp_path: Path, kept_text: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Reference(
        models.BPE({END: 0, "a": 1, "b</w>": 2, "ab</w>": 3}, [("a", "b</w>")], end_of_word_suffix="</w>")
    )
    with pytest.raises(DataError, match="'</w>' inside or at the end of words"):
        prune(saved(tmp_path / "ending", ending), kept_text)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="holds no text, and so needs no token"):
        prune(pieces(), Sources([tmp_path / "empty.txt"]))
    monkeypatch.setattr("lost.reshape.vocabulary.of_pieces.PieceVocabulary.steps_to", lambda self, number: {number})
    with pytest.raises(DataError, match="as another text or in other pieces"):
        prune(pieces(), kept_text)
