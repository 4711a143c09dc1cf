"""Files that a stranger made to harm: refused by one of our errors, with the place, before they take time or memory."""

import gzip
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy
import zstandard

from lost.data.dataset import Dataset
from lost.errors import DataError, LostError
from lost.evaluation.perplexity import Evaluation
from lost.model.load import load_config
from lost.planning.room import check_room
from lost.prepare.holdout import hold_out, text_stats
from lost.prepare.reading.readers import read
from lost.prepare.sources import Sources
from lost.tokenizer import load_tokenizer
from lost.tokenizer.growth import check_growth
from lost.utils.parsing import parse_json

Lost = Callable[..., Any]


def parquet_bomb(path: Path) -> None:
    """One text, named by every row: its bytes are in the file once."""
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a" * (1 << 22)] * 40}), path, compression="zstd")


def shared_bomb(path: Path) -> None:
    """A text of which all rows of the first batch would have a copy before one is counted."""
    shared = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 16, pyarrow.int32()), ["a" * (80 << 20)])
    options: Any = {"store_schema": False, "dictionary_pagesize_limit": 1 << 30}
    pyarrow.parquet.write_table(pyarrow.table({"text": shared}), path, compression="zstd", **options)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("text.txt.gz", lambda path: path.write_bytes(gzip.compress(b"a" * (80 << 20)))),
        ("text.txt.zst", lambda path: path.write_bytes(zstandard.compress(b"a" * (80 << 20)))),
        ("line.jsonl.gz", lambda path: path.write_bytes(gzip.compress(b'{"text": "' + b"a" * (80 << 20)))),
        ("text.parquet", parquet_bomb),
        ("shared.parquet", shared_bomb),
    ],
)
def test_packed_to_fill_the_memory(tmp_path: Path, name: str, write: Callable[[Path], object]) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match="unpacks to more than 250 times its size"):
        for _ in read(tmp_path / name, "text"):
            pass


@pytest.mark.parametrize(("value", "kind"), [(["a"] * 9, "list"), ({"a": ["b"] * 9}, "struct")])
def test_a_row_of_any_length_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, kind: str
) -> None:
    """A few bytes can say a list of a billion texts: what is made of lists isn't read to see that it's no text."""
    pyarrow.parquet.write_table(pyarrow.table({"text": [value]}), tmp_path / "x.parquet")
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("it is read"))
    with pytest.raises(DataError, match=rf"no text under 'text' \(found: {kind}<.*> there\)"):
        list(read(tmp_path / "x.parquet", "text"))


@pytest.mark.parametrize(
    ("part", "step", "words"),
    [
        ("normalizer", {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}] * 4}, "its normalizer makes a text"),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 2000}, "2e+03 times as long"),
        ("decoder", {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 5000}]}, "its decoder makes a text"),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}, None),  # Llama's
    ],
)  # fmt: skip
def test_a_tokenizer_that_multiplies_a_text(part: str, step: dict, words: str | None) -> None:
    if words:
        with pytest.raises(ValueError, match=re.escape(words)):
            check_growth({part: step})
    else:
        check_growth({part: step})


def test_a_tokenizer_that_multiplies_a_text_is_refused(lost: Lost, text_folder: Path, tmp_path: Path) -> None:
    end = {"id": 0, "content": "<eos>", "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    normalizer = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 9999}
    model = {"type": "BPE", "vocab": {"<eos>": 0, "a": 1}, "merges": []}
    document = {"version": "1.0", "added_tokens": [end], "normalizer": normalizer, "model": model}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    answer = lost("prepare", text_folder, "--tokenizer", tmp_path, "--out", tmp_path / "set")
    assert answer.code == 2
    assert "its normalizer makes a text up to 1e+04 times as long" in answer.err


def test_a_key_of_a_stranger_is_one_line(lost: Lost, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"x\nlost: all files are intact\n": 1}) + "\n")
    answer = lost("prepare", tmp_path / "a.jsonl", "--out", tmp_path / "set")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(("size", "words"), [(3_000_000_000, "--vocab-size"), (280, "hardly any text")])
def test_a_vocabulary_that_no_text_has(lost: Lost, tmp_path: Path, size: int, words: str) -> None:
    (tmp_path / "a.txt").write_text("a")
    answer = lost("prepare", tmp_path / "a.txt", "--vocab-size", size, "--out", tmp_path / "set")
    assert answer.code == 2
    assert words in answer.err


def test_a_file_where_a_run_is_to_be(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        answer = lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / name)
        assert answer.code == 2
        assert "a file, or a link that leads nowhere" in answer.err


def test_a_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lost.prepare.reading.readers._LINE", 1000)
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "' + "a" * 2000 + '"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: a line of more than"):
        list(read(tmp_path / "a.jsonl", "text"))


def test_a_file_of_holes_is_refused_at_its_first_byte(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "b.txt").write_text("text")
    sources = Sources([tmp_path])
    assert list(sources.documents()) == ["text"]
    assert sources.skipped == [tmp_path / "a.txt"]


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.txt.gz", "x.txt.zst", "x.parquet"])
def test_a_pipe_among_texts_is_not_waited_for(lost: Lost, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    answer = lost("prepare", tmp_path, "--out", tmp_path.parent / f"{tmp_path.name}-out")
    assert answer.code == 2
    assert f"{name} can't be read: it is not a regular file" in answer.err


def test_links_out_of_a_text_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("private")
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text("public\n")
    (folder / "b.txt").symlink_to("a.txt")  # inside: another name of the same text
    assert list(Sources([folder]).documents()) == ["public\n"] * 2
    (folder / "c.txt").symlink_to(tmp_path / "secret")
    sources = Sources([folder])
    assert list(sources.documents()) == ["public\n"] * 2
    assert list(sources.remarks()) == [
        "skipped, because they are links out of their folder; name what they lead to, if it belongs: c.txt"
    ]
    assert list(Sources([folder / "c.txt"]).documents()) == ["private"]  # whoever names it means it


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a": ', "}")])
@pytest.mark.parametrize("depth", [101, 900, 100_000])
def test_json_is_bounded_in_depth(open_: str, close: str, depth: int) -> None:
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        parse_json(open_ * depth + "1" + close * depth)
    assert parse_json(open_ * 99 + "1" + close * 99)


def test_what_a_number_that_is_too_long_is_called() -> None:
    with pytest.raises(ValueError, match="a whole number of thousands of digits"):
        parse_json("[" + "9" * 5000 + "]")


@pytest.mark.parametrize(
    "override",
    [
        "model.num_hidden_layers=1000000",
        "model.num_hidden_layers=" + "9" * 30,
        "train.batch_size=9223372036854775808",
        "schedule.steps=1" + "0" * 400,
        "data.path=\"a\\0b\"",
        "data.path=\"\\ud800\"",
    ],
)  # fmt: skip
def test_numbers_and_names_that_none_has(lost: Lost, tiny_yaml: Path, override: str) -> None:
    answer = lost("plan", tiny_yaml, "--set", override)
    assert answer.code == 2
    assert f"--set: {override.partition('=')[0]} = " in answer.err


def test_a_batch_that_no_memory_holds_is_refused_by_arithmetic(tiny_yaml: Path) -> None:
    huge = ("train.batch_size=4503599627370496", "train.micro_batch_size=4503599627370496", "model.vocab_size=100")
    with pytest.raises(LostError, match=r"the nearest that fits is --set train\.micro_batch_size=8192,"):
        check_room(load_config(tiny_yaml, huge), "torch", "cpu", 5 << 28)


def test_a_regular_expression_without_an_end(tmp_path: Path) -> None:
    """The library panics, by an exception that is none of Python's own kinds."""
    document = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "</s>", "special": True, "normalized": False, "single_word": False,
                          "lstrip": False, "rstrip": False}],
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
        "model": {"type": "BPE", "vocab": {"</s>": 0, "a": 1, "b": 2}, "merges": []},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(DataError, match=r"tokenizer.json can't be worked with: .*retry-limit"):
        tokenizer.encode("a" * 100 + "b")


def test_sentencepiece_models_with_changed_bytes(prepared: Dataset, tmp_path: Path) -> None:
    content, draw = prepared.tokenizer.files["tokenizer.model"], random.Random(0)
    for _ in range(200):
        changed = bytearray(content)
        changed[draw.randrange(len(changed))] = draw.randrange(256)
        (tmp_path / "tokenizer.model").write_bytes(changed)
        try:
            tokenizer = load_tokenizer(tmp_path)
        except DataError:
            continue
        assert tokenizer.encode("the rank of").max() < tokenizer.vocab_size
        tokenizer.decode(range(tokenizer.vocab_size))


def test_a_weight_that_is_not_finite_is_named(run: Path, reseal: Callable[..., None], lost: Lost, whole: Path) -> None:
    checkpoint = run / "checkpoints" / "step-00000020"
    file, name = checkpoint / "model-00001.safetensors", "model.layers.0.mlp.up_proj.up"
    arrays = safetensors.numpy.load_file(file)
    arrays[name] = arrays[name].copy()
    arrays[name][0, 0] = np.nan
    safetensors.numpy.save_file(arrays, file, {"format": "pt"})
    reseal(checkpoint)
    answer = lost("inspect", checkpoint)
    assert answer.code == 2
    assert f"{name} holds numbers that are not finite" in answer.err


@pytest.mark.parametrize(
    "change",
    [
        {"step": -5}, {"step": 10**30}, {"samples": 2**70}, {"seconds": float("nan")}, {"seconds": "1e999"},
        {"guard": {"skipped": -1}}, {"guard": {"usual_norm": float("inf")}},
        {"files": {"a\0b": {"size": 1, "sha256": ""}}}, {"files": {"\ud800": {"size": 1, "sha256": ""}}},
    ],
    ids=repr,
)  # fmt: skip
def test_manifests_that_describe_no_run(
    run: Path, reseal: Callable[..., None], lost: Lost, change: dict[str, Any]
) -> None:
    """Of a run, the checkpoint before is taken."""
    checkpoint = run / "checkpoints" / "step-00000020"
    reseal(checkpoint, lambda manifest: manifest.update(change))
    answer = lost("inspect", checkpoint)
    assert answer.code == 2
    assert "manifest.json is incomplete or damaged" in answer.err
    assert "step 10" in lost("inspect", run).out


def test_index_of_weights_with_a_name_that_no_file_has(lost: Lost, tmp_path: Path) -> None:
    model = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model |= {"num_attention_heads": 1, "vocab_size": 8, "max_position_embeddings": 8, "rms_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps(model))
    for name in ("x" * 300, "\0", "\ud800"):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        answer = lost("convert", tmp_path, tmp_path / "out", "--from", "hf")
        assert answer.code == 2
        assert "1 of the files are missing" in answer.err


def test_perplexity_beyond_a_float_is_infinite_not_a_number_of_ours() -> None:
    assert Evaluation(800.0, 1, 1).perplexity == float("inf")
    assert Evaluation(1600.0, 1, 1).lineage_perplexity == float("inf")
    assert Evaluation(2.0, 1, 1).perplexity == pytest.approx(np.exp(2.0))


def test_a_document_that_is_most_of_the_text_is_not_held_out(tmp_path: Path) -> None:
    """Whichever hash it has: each of 30 documents is repeated in turn."""
    for repeated in range(30):
        texts = [f"document {number}" for number in [*range(30), *[repeated] * 900]]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        rule = hold_out(text_stats(Sources([tmp_path]), lambda documents, size: None), 0.02)
        held_out = [text for text in texts if rule.split(text)[1]]
        assert 0 < len(held_out) <= 0.02 * len(texts)


@pytest.mark.parametrize("command", ["train", "prepare", "convert"])
def test_an_empty_name_is_not_the_current_folder(
    lost: Lost, command: str, tiny_yaml: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    more = {"train": ["--data", prepared.path, "--out", ""], "prepare": ["--out", ""], "convert": [""]}[command]
    answer = lost(command, tiny_yaml, *more)
    assert answer.code == 2
    assert "expected a path, got an empty one" in answer.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_circle_of_links(lost: Lost, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "text.txt").write_text("some text\n" * 200)
    answer = lost("prepare", tmp_path / "text.txt", "--out", tmp_path / "loop", "--vocab-size", 280)
    assert answer.code == 2
    assert "Symlink" not in answer.err
    answer = lost("prepare", tmp_path / "loop", "--out", tmp_path / "out")
    assert answer.code == 2


def test_a_name_that_is_too_long(lost: Lost, tmp_path: Path) -> None:
    answer = lost("prepare", "x" * 300, "--out", tmp_path / "out")
    assert answer.code == 2
    assert "doesn't exist" in answer.err


def test_files_of_holes_in_a_run(lost: Lost, run: Path) -> None:
    """As long as a disk is said to be, and nothing in them."""
    for path, arguments, named in (
        (run / "metrics.jsonl", ("verify", run), "metrics.jsonl:1: has more than 1,048,576 characters"),
        (run / "metrics.jsonl", ("train", run), "metrics.jsonl could not be written: it is longer than 1,024 MiB. "),
        (
            run / "tokenizer.model",
            ("prepare", run, "--tokenizer", run / "tokenizer.model"),
            "it is longer than 256 MiB",
        ),
    ):
        with path.open("wb") as file:
            file.truncate(1 << 40)
        answer = lost(*arguments)
        assert answer.code == 2
        assert named in answer.out + answer.err


def test_an_export_is_not_written_over_by_what_is_nested(lost: Lost, run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("[" * 100_000)
    answer = lost("convert", run, tmp_path / "out", "--to", "hf", "--overwrite")
    assert answer.code == 2
    assert "already exists and is not an export" in answer.err
