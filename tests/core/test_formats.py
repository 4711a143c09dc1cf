"""A format of text from outside the package: one registration, and it is read, sampled, named and told apart."""

import gzip
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from folders import contents

from lost.data.dataset import Dataset
from lost.errors import DataError, InterruptedAtOnceError
from lost.prepare.cap import Cap
from lost.prepare.reading import KINDS, Part, Reader, hub, kinds
from lost.prepare.reading.parts import parts, shares
from lost.prepare.reading.readers import NotTextError, read
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.storage.unpack import opened

TEXTS = [f"verse {number} of the rank\nand of the weight" + " more" * (number % 40) for number in range(2000)]


class Verses(Reader):
    """Text whose paragraphs are documents, told apart by empty lines."""

    suffixes = (".verses", ".ode")

    def documents(self, path: Path, text_key: str, part: Part) -> Iterator[str]:
        with opened(path) as file:
            content = file.read()
        if b"\0" in content:
            raise NotTextError("there is a NUL byte")
        yield from part.share(iter(content.decode().split("\n\n")))

    def parts(self, path: Path, packed: bool) -> list[Part]:
        return super().parts(path, packed) if packed else shares([(0, None)])


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "verses", Verses())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.verses").write_text("\n\n".join(TEXTS[:800]))
    (folder / "b.ode.gz").write_bytes(gzip.compress("\n\n".join(TEXTS[800:1600]).encode()))
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[1600:-1]))
    (folder / "d.txt").write_text(TEXTS[-1])
    (folder / "e.verses").write_bytes(b"\0")
    return folder


def test_documents(folder: Path, registered: None) -> None:
    sources = Sources([folder])
    assert list(sources.documents()) == TEXTS
    assert sources.skipped == [folder / "e.verses"]
    with pytest.raises(DataError, match=r"e\.verses is not text: there is a NUL byte"):
        list(Sources([folder / "e.verses"]).documents())


def test_without_it_the_files_are_text(folder: Path) -> None:
    assert list(Sources([folder / "a.verses"]).documents()) == ["\n\n".join(TEXTS[:800])]


@pytest.mark.parametrize("cap", [None, Cap(700), Cap(tokens=20_000, seed=1)])
def test_prepared_by_one_process_and_by_several(
    folder: Path, tmp_path: Path, prepared: Dataset, registered: None, monkeypatch: pytest.MonkeyPatch, cap: Cap | None
) -> None:
    """The same bytes; without a cap they are those of the same documents as JSON lines."""
    monkeypatch.setattr("lost.prepare.text._WORKER_BYTES", 10_000)
    monkeypatch.setattr("lost.prepare.text._BATCH_CHARACTERS", 10_000)
    for workers in (1, 3):
        prepare(Sources([folder], cap=cap), tmp_path / f"{workers}", prepared.tokenizer, 0.1, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    made = Dataset(tmp_path / "1")
    documents = sum(made.split(name).documents for name in ("train", "valid"))
    assert documents == (700 if cap and cap.documents else documents if cap else len(TEXTS))
    if cap is None:
        (tmp_path / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        prepare(Sources([tmp_path / "all.jsonl"]), tmp_path / "same", prepared.tokenizer, 0.1)
        assert Dataset(tmp_path / "same").fingerprint == made.fingerprint


def test_its_own_parts_are_drawn_from(folder: Path, registered: None) -> None:
    path = folder / "a.verses"
    own = parts(path)
    assert len(own) == 64
    assert [list(read(path, "text", part)) for part in own[:2]] == [TEXTS[:800:64], TEXTS[1:800:64]]
    assert parts(folder / "b.ode.gz") == [Part()]
    taken = [int(text.split()[1]) for text in Sources([path], cap=Cap(40)).documents()]
    assert len(set(taken)) == 40
    assert sorted(taken) != list(range(min(taken), min(taken) + 40))


def test_its_suffix_is_that_of_a_file(registered: None) -> None:
    """Not of a data set of the hub, of which `owner/name.verses` could be one; and it is among what is expected."""
    assert not hub.is_name("owner/name.verses")
    assert hub.is_name("owner/name.prose")
    with pytest.raises(DataError, match=r"expected a text, \.jsonl, \.parquet or \.verses file, a folder"):
        list(Sources(["owner/name.verses"]).documents())


def test_found_by_an_entry_point_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a suffix is met that none of the package's own formats has."""
    loaded = []

    class Point:
        def load(self) -> None:
            loaded.append(self)
            monkeypatch.setitem(KINDS, "verses", Verses())

    def points(group: str) -> list[Point]:
        return [Point()] if group == "lost.extensions" else []

    monkeypatch.setattr("lost.config.registry.entry_points", points)
    kinds._load_extensions.cache_clear()
    assert list(Sources([folder / "c.jsonl", folder / "d.txt"]).documents()) == TEXTS[1600:]
    assert not loaded
    (folder / "d.txt").rename(folder / "d")
    assert list(Sources([folder]).documents()) == TEXTS
    assert len(loaded) == 1


def test_a_set_begun_without_it_does_not_go_on_with_it(
    folder: Path, tmp_path: Path, prepared: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents that were counted as text are others now."""

    def interrupt(phase: str, *_: int) -> None:
        if phase == "encoding":
            raise KeyboardInterrupt

    sources = Sources([folder / "a.verses", folder / "c.jsonl"])
    with suppress(InterruptedAtOnceError):
        prepare(sources, tmp_path / "out", prepared.tokenizer, 0.1, interrupt)
    monkeypatch.setitem(KINDS, "verses", Verses())
    with pytest.raises(DataError, match="holds the beginning of a prepared set that other arguments made"):
        prepare(sources, tmp_path / "out", prepared.tokenizer, 0.1)
    monkeypatch.delitem(KINDS, "verses")
    prepare(sources, tmp_path / "out", prepared.tokenizer, 0.1)
    assert sum(Dataset(tmp_path / "out").split(name).documents for name in ("train", "valid")) == 400
