"""Sources of text: every format gives the same documents, damage and missing packages are named."""

import errno
import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hub_server import Repository, running

from lost.data.dataset import Dataset
from lost.errors import DataError, MissingPackageError, NetworkError, UnreachableError
from lost.prepare.output import unseen
from lost.prepare.reading.hub import HubChoice
from lost.prepare.sources import Sources
from lost.prepare.text import prepare

TEXTS = ["the rank\nof the layer", "", "\u4f60\u597d \U0001f600", "x" * 5000, *(f"document {n}" for n in range(700))]
LINES = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in TEXTS).encode()
WANTED = [text for text in TEXTS if text]


def frames(content: bytes) -> bytes:
    """Two zstd frames, one after the other, as parallel compressors write them."""
    half = len(content) // 2
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in (content[:half], content[half:]))


def write_parquet(path: Path, texts: list, key: str = "text", rows: int = 100) -> None:
    table = pyarrow.table({"id": list(range(len(texts))), key: texts})
    pyarrow.parquet.write_table(table, path, row_group_size=rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", LINES),
        ("x.ndjson.gz", gzip.compress(LINES[:999]) + gzip.compress(LINES[999:])),
        ("x.jsonl.zst", frames(LINES)),
    ],
)
def test_json_lines(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert list(Sources([tmp_path / name]).documents()) == WANTED


def test_plain_text(tmp_path: Path) -> None:
    text = "the rank\r\nof the layer \u4f60\n" * 20_000
    contents = {"a.txt": text.encode(), "b.txt.gz": gzip.compress(text.encode()), "c.txt.zst": frames(text.encode())}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert list(Sources([tmp_path / name]).documents()) == [text]
    assert list(Sources([tmp_path]).documents()) == [text] * 3


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_parquet(tmp_path: Path, kind: str) -> None:
    texts = pyarrow.array([*TEXTS, None])
    column = texts.dictionary_encode() if kind == "dictionary" else texts.cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"body": column}), tmp_path / "x.parquet", row_group_size=100)
    assert list(Sources([tmp_path], text_key="body").documents()) == WANTED


def test_all_formats_make_the_same_set(prepared: Dataset, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.zst").write_bytes(frames(LINES))
    write_parquet(tmp_path / "x.parquet", TEXTS)
    for name in ("x.jsonl.zst", "x.parquet"):
        prepare(Sources([tmp_path / name]), tmp_path / name.replace(".", "_"), prepared.tokenizer, 0.1)
    assert Dataset(tmp_path / "x_jsonl_zst").fingerprint == Dataset(tmp_path / "x_parquet").fingerprint


def damaged_parquet(path: Path) -> None:
    write_parquet(path, ["the rank " * 500 + str(n) for n in range(300)])
    content = bytearray(path.read_bytes())
    content[50:2000] = bytes(1950)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "write", "named"),
    [
        ("cut.zst", lambda path: path.write_bytes(frames(LINES)[:-7]), "is damaged: it ends inside a zstd frame"),
        ("bad.jsonl.zst", lambda path: path.write_bytes(frames(LINES) + b"junk"), "is damaged: zstd"),
        ("no.txt.zst", lambda path: path.write_bytes(b"the rank"), "is damaged: zstd"),
        ("no.txt.gz", lambda path: path.write_bytes(b"the rank"), "is damaged: Not a gzipped file"),
        ("no.parquet", lambda path: path.write_bytes(b"the rank of the layer"), "is damaged: Parquet"),
        ("holes.parquet", damaged_parquet, "is damaged: "),
        ("key.parquet", lambda path: write_parquet(path, ["a"], "body"), r"no text under 'text' \(found: id, body\)"),
        ("numbers.parquet", lambda path: write_parquet(path, [1, 2]), r"no text under 'text' \(found: int there\)"),
    ],
)
def test_damaged(tmp_path: Path, name: str, write: Callable[[Path], object], named: str) -> None:
    write(tmp_path / name)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(DataError, match=named):
            list(Sources([path]).documents())


def test_dates_that_python_has_none_for_are_no_text(tmp_path: Path) -> None:
    for column in (pyarrow.array([10**15], pyarrow.timestamp("s")), pyarrow.array([10**8], pyarrow.date32())):
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "x.parquet")
        with pytest.raises(DataError, match=r"no text under 'text' \(found: (timestamp|date32)\[.*\] there\)"):
            list(Sources([tmp_path / "x.parquet"]).documents())


def test_a_file_that_fails_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says of an open file doesn't say which."""

    def fail(*_: object) -> Iterator[str]:
        yield "the rank"
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "a.txt").touch()
    monkeypatch.setattr("lost.prepare.sources.read", fail)
    for path in (tmp_path / "a.txt", tmp_path):
        with pytest.raises(UnreachableError, match=r"/a\.txt can't be read: Input/output error"):
            list(Sources([path]).documents())


@pytest.mark.parametrize("name", ["./notes", "../notes", "notes/.hidden"])
def test_paths_that_are_no_names_of_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of its names begins with a dot: nobody is asked, and no library is missing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=f"{name} doesn't exist"):
        list(Sources([name]).units())


@pytest.mark.parametrize(
    ("package", "name"), [("zstandard", "x.jsonl.zst"), ("pyarrow", "x.parquet"), ("datasets", "hf://owner/name")]
)
def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    path = name if name.startswith("hf") else tmp_path / name
    if isinstance(path, Path):
        path.touch()
    with pytest.raises(MissingPackageError, match=r"-e '\.\[data\]'"):
        list(Sources([path]).documents())


def hub_set(folder: Path) -> str:
    """A data set as the hub has them, two splits, one of them in two files, read by name as one there would be."""
    folder.mkdir()
    write_parquet(folder / "train-00000-of-00002.parquet", TEXTS[:300])
    write_parquet(folder / "train-00001-of-00002.parquet", [*TEXTS[300:], None])
    write_parquet(folder / "validation-00000-of-00001.parquet", ["held out, the rank"] * 9)
    return f"hf://{folder}"


def test_data_set_of_the_hub(tmp_path: Path) -> None:
    name = hub_set(tmp_path / "set")
    sources = Sources([name])
    assert len(list(sources.units())) == 2  # so that going on skips files
    assert list(sources.documents()) == WANTED
    assert list(Sources([name], choice=HubChoice(split="validation")).documents()) == ["held out, the rank"] * 9


def test_data_set_of_json_lines(tmp_path: Path) -> None:
    """The library doesn't know the fields of these before it reads them."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl.gz").write_bytes(gzip.compress(LINES))
    assert list(Sources([f"hf://{tmp_path / 'set'}"]).documents()) == WANTED
    with pytest.raises(DataError, match=r"no text under 'body' \(found: id, text\)"):
        list(Sources([f"hf://{tmp_path / 'set'}"], text_key="body").documents())
    with pytest.raises(DataError, match=r"no text under 'id'"):
        list(Sources([f"hf://{tmp_path / 'set'}"], text_key="id").documents())


def test_data_set_of_the_hub_from_the_command_line(lost: Callable, prepared: Dataset, tmp_path: Path) -> None:
    name, out = hub_set(tmp_path / "set"), tmp_path / "out"
    answer = lost("prepare", name, "--valid-split", "validation", "--out", out, "--tokenizer", prepared.path)
    assert answer.code == 0, answer.err
    assert Dataset(out).split("train").documents == len(WANTED)
    assert Dataset(out).split("valid").documents == 9
    assert '"split": "train"' in (out / "dataset.json").read_text()
    local = tmp_path / "local"
    assert lost("prepare", tmp_path / "set", "--include", "train*", "--valid-fraction", 0.1, "--out", local,
                "--tokenizer", prepared.path).code == 0  # fmt: skip
    streamed = tmp_path / "streamed"
    assert lost("prepare", name, "--valid-fraction", 0.1, "--out", streamed, "--tokenizer", prepared.path).code == 0
    assert Dataset(streamed).fingerprint == Dataset(local).fingerprint


def test_wrong_validation_split_is_said_before_anything_is_encoded(prepared: Dataset, tmp_path: Path) -> None:
    """Of a data set of the hub a document is looked at."""
    (tmp_path / "a.txt").write_text("the rank of the layer")
    write_parquet(tmp_path / "empty.parquet", [""])
    write_parquet(tmp_path / "numbers.parquet", [1, 2])
    phases = []

    def progress(phase: str, *counts: int) -> None:
        phases.append(phase)

    for kind, named in (("empty", "there is no text in hf://"), ("numbers", "no text under 'text'")):
        (tmp_path / kind).mkdir()
        (tmp_path / f"{kind}.parquet").rename(tmp_path / kind / "validation.parquet")
        valid = Sources([f"hf://{tmp_path / kind}"], choice=HubChoice(split="validation"))
        with pytest.raises(DataError, match=named):
            prepare(Sources([tmp_path / "a.txt"]), tmp_path / "out", prepared.tokenizer, valid, progress)
    assert phases == []


def test_large_data_sets_are_not_read_twice(prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what is looked at first, the share of hashes below a threshold is what is held out."""
    monkeypatch.setattr("lost.prepare.holdout._REMOTE_BYTES", 6000)
    folder = tmp_path / "set"
    folder.mkdir()
    texts = [f"document {number} of the rank" for number in range(3000)]
    write_parquet(folder / "train.parquet", texts)
    prepare(Sources([f"hf://{folder}"]), tmp_path / "out", 300, 0.1)
    data = Dataset(tmp_path / "out")
    assert data.split("train").documents + data.split("valid").documents == 3000
    assert 250 < data.split("valid").documents < 350
    monkeypatch.setattr("lost.prepare.holdout._MANY", 10)  # the same holds of local text of many documents
    prepare(Sources([folder]), tmp_path / "local", data.tokenizer, 0.1)
    assert Dataset(tmp_path / "local").fingerprint == data.fingerprint


def test_refused_data_sets(lost: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = hub_set(tmp_path / "set")
    cases = [
        ((name, "--text-key", "body"), "no text under 'body' (found: id, text)"),
        ((name, "--split", "nowhere"), "nowhere"),
        (("hf://" + str(tmp_path / "none"),), "a data set of the Hugging Face hub, can't be opened"),
        ((tmp_path / "set", "--split", "validation"), "--split given, but all text is local"),
        ((tmp_path / "set", "--valid-split", "validation"), "--valid-split given, but all text is local"),
        ((name, "--valid", "v.txt", "--valid-split", "validation"), "the text of --valid is local"),
        (("nowhere/x.jsonl",), "nowhere/x.jsonl doesn't exist"),
        (("nowhere",), "nowhere doesn't exist"),
    ]
    monkeypatch.chdir(tmp_path)
    Path("v.txt").touch()
    for arguments, named in cases:
        answer = lost("prepare", *arguments, "--out", tmp_path / "out")
        assert answer.code == 2, arguments
        assert named in answer.err, answer.err
        assert not (tmp_path / "out").exists()


def test_interrupted_streams(tmp_path: Path) -> None:
    """A file that disappears while it is read, as a network does."""
    name = hub_set(tmp_path / "set")
    sources = Sources([name])
    units = list(sources.units())
    assert next(units[0].documents()) == WANTED[0]
    (tmp_path / "set" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(UnreachableError, match="the same command again"):
        list(units[1].documents())


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may answer later, which the exit code says; what can't be found is wrong."""
    import datasets

    def fail(*arguments: object, **more: object) -> None:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub (ConnectTimeout)")

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(NetworkError, match="hf://owner/name: the hub can't be reached") as error:
        list(Sources(["hf://owner/name"]).units())
    assert error.value.exit_code == 75
    with running() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        for there in ({}, {"owner/name": Repository()}):
            hub.repositories.update(there)
            with pytest.raises(NetworkError, match="can't be reached: Couldn't reach 'owner/name'"):
                list(Sources(["hf://owner/name"]).units())


def test_a_data_set_is_read_at_one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that its revision meant as it was opened: another is other text, and it is recorded."""
    import datasets

    opened = []

    def load(name: str, *_: object, revision: str, **__: object) -> object:
        opened.append((name, revision))
        return datasets.Dataset.from_dict({"text": ["a", "b"]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    with running() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        hub.repositories["owner/name"] = Repository({"a.parquet": b"1"})
        sources = Sources(["hf://owner/name"], choice=HubChoice(revision="main"))
        before, sha = sources.described(), hub.repositories["owner/name"].sha
        assert list(sources.documents()) == ["a", "b"]
        assert opened == [("owner/name", sha)]
        assert sources.origin()["commits"] == {"hf://owner/name": sha}
        hub.repositories["owner/name"].files["a.parquet"] = b"2"
        assert Sources(["hf://owner/name"], choice=HubChoice(revision="main")).described() != before


def test_a_look_up_that_fails_does_not_end_a_resume(
    prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the commit: the text isn't taken for another, and the command goes on once the hub answers."""
    import datasets

    def load(name: str, *_: object, **__: object) -> object:
        return datasets.Dataset.from_dict({"text": ["the rank of the layer"] * 40}).to_iterable_dataset()

    def interrupt(phase: str, *counts: int) -> None:
        if phase == "encoding":
            raise UnreachableError("gone")

    monkeypatch.setattr(datasets, "load_dataset", load)
    out, told = tmp_path / "out", []
    with running() as hub:
        hub.repositories["owner/name"] = Repository({"a.parquet": b"1"})
        for address, progress, error in ((hub.address, interrupt, UnreachableError),
                                         ("http://127.0.0.1:9", unseen, NetworkError)):  # fmt: skip
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
            with pytest.raises(error):
                prepare(Sources(["hf://owner/name"]), out, prepared.tokenizer, 0.1, progress)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        prepare(Sources(["hf://owner/name"]), out, prepared.tokenizer, 0.1, log=told.append)
    assert "resuming" in told[0]


@pytest.mark.parametrize("remote", [True, False])
def test_validation_text_is_of_the_same_commit(
    prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    """Although the set moves on between the two; what is recorded has it, where the training text is local too."""
    import datasets

    opened = []
    (tmp_path / "a.txt").write_text("the rank of the layer")
    with running() as hub:
        hub.repositories["owner/name"] = Repository({"a.parquet": b"1"})
        sha = hub.repositories["owner/name"].sha

        def load(name: str, *_: object, revision: str, **__: object) -> object:
            opened.append(revision)
            hub.repositories["owner/name"].files["a.parquet"] = b"2"
            return datasets.Dataset.from_dict({"text": ["the rank of the layer"] * 4}).to_iterable_dataset()

        monkeypatch.setattr(datasets, "load_dataset", load)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        valid = Sources(["owner/name"], choice=HubChoice(split="validation"))
        sources = Sources(["hf://owner/name" if remote else tmp_path / "a.txt"])
        prepare(sources, tmp_path / "out", prepared.tokenizer, valid)
    assert set(opened) == {sha}
    origin = json.loads((tmp_path / "out" / "dataset.json").read_text())["origin"]
    assert origin["validation"]["commits"] == {"hf://owner/name": sha}
    assert origin["validation"]["split"] == "validation"
    assert origin.get("commits") == ({"hf://owner/name": sha} if remote else None)
