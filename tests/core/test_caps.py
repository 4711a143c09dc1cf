"""`lost prepare --max-documents` and `--max-tokens`: what is taken, how fairly, and how little is read for it."""

import gzip
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from lost.data.dataset import Dataset
from lost.errors import DataError
from lost.prepare.cap import Cap
from lost.prepare.reading.parts import parts
from lost.prepare.reading.readers import read
from lost.prepare.sources import Sources, in_turns
from lost.prepare.text import prepare
from lost.storage.nofollow import open_read

MANY = 100_000
FORMATS = ["a.parquet", "b.jsonl", "c.jsonl.gz"]


def write(path: Path, texts: list[str], rows: int = 1000) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=rows, compression="none")
    else:
        content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each format that can be read in part: 100,000 documents that say their numbers."""
    folder = tmp_path_factory.mktemp("many")
    texts = [f"{number} of the rank and the weight" for number in range(MANY)]
    for name in FORMATS[:2]:
        write(folder / name, texts)
    return folder


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what is read of files of text."""
    sizes: list[int] = []

    class Counting:
        def __init__(self, path: Path, follow: bool = False) -> None:
            self._file = open_read(path, follow)

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *error: object) -> None:
            self._file.close()

        def _counted(self, content: bytes) -> bytes:
            sizes.append(len(content))
            return content

        def read(self, *size: int) -> bytes:
            return self._counted(self._file.read(*size))

        def readline(self, *size: int) -> bytes:
            return self._counted(self._file.readline(*size))

    for module in ("prepare.reading.parquet", "storage.unpack"):
        monkeypatch.setattr(f"lost.{module}.open_read", Counting)
    return sizes


@pytest.mark.parametrize("name", FORMATS[:2])
def test_documents_of_a_large_set(many: Path, bytes_read: list[int], name: str) -> None:
    """As many as were asked for, none twice, from all over the text, the same for a seed; the rest isn't read."""
    taken = list(Sources([many / name], cap=Cap(3000)).documents())
    assert sum(bytes_read) < 0.15 * (many / name).stat().st_size
    assert taken == list(Sources([many / name], cap=Cap(3000)).documents())
    assert taken != list(Sources([many / name], cap=Cap(3000, seed=1)).documents())
    numbers = {int(text.split()[0]) for text in taken}
    assert len(numbers) == len(taken) == 3000
    assert max(numbers) - min(numbers) > MANY / 4


@pytest.mark.parametrize("name", [*FORMATS, "one-group.parquet", "d.txt"])
def test_parts_are_the_whole(tmp_path: Path, name: str) -> None:
    """Each document is in one part: lines that cross the borders of ranges, long ones, empty ones."""
    texts = ["x" * (number * 37 % 5000) for number in range(300)]
    path = write(tmp_path / name, texts, rows=1000 if "one" in name else 7)
    of_parts = [list(read(path, "text", part)) for part in parts(path)]
    assert sorted(chain(*of_parts)) == sorted(read(path, "text"))
    assert len(of_parts) > 10 or name == "d.txt"


@pytest.mark.parametrize("name", FORMATS)
def test_every_document_has_its_chance(tmp_path: Path, name: str) -> None:
    """Over seeds, documents at the beginning, in the middle and at the end are taken about as often."""
    path = write(tmp_path / name, [f"{number}" for number in range(640)], rows=10)
    counts = np.zeros(640)
    for seed in range(64):
        for text in Sources([path], cap=Cap(64, seed=seed)).documents():
            counts[int(text)] += 1
    assert counts.sum() == 64 * 64
    thirds = [part.mean() for part in np.array_split(counts, 3)]
    assert max(thirds) < 1.35 * min(thirds)


@pytest.mark.parametrize("cap", [Cap(3000), Cap(tokens=40_000), Cap(3000, 40_000)])
def test_a_prepared_set(
    many: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cap: Cap
) -> None:
    """What it says is taken, what is held out among it; the same bytes from one process and from several."""
    monkeypatch.setattr("lost.prepare.text._WORKER_BYTES", 10_000)
    monkeypatch.setattr("lost.prepare.text._BATCH_CHARACTERS", 10_000)
    sets = []
    for workers in (1, 2 if cap.tokens and cap.documents else 1):
        sources = Sources([many / "a.parquet"], cap=cap)
        prepare(sources, tmp_path / f"{len(sets)}", prepared.tokenizer, 0.1, workers=workers)
        sets.append(Dataset(tmp_path / f"{len(sets)}"))
    assert sets[0].fingerprint == sets[1].fingerprint
    train, valid = sets[0].split("train"), sets[0].split("valid")
    longest = len(prepared.tokenizer.encode(f"{MANY} of the rank and the weight")) + 1
    if cap.tokens:
        assert cap.tokens - longest < train.tokens + valid.tokens <= cap.tokens
    else:
        assert train.documents + valid.documents == cap.documents
    assert 0.07 < valid.documents / (train.documents + valid.documents) < 0.13
    origin = json.loads((tmp_path / "0" / "dataset.json").read_text())["origin"]
    assert (origin["max_documents"], origin["max_tokens"], origin["seed"]) == (cap.documents, cap.tokens, 0)


def test_what_is_held_out_is_among_what_is_taken(prepared: Dataset, tmp_path: Path) -> None:
    """Although more is looked at than fits: a document or few for every seed, or ends where few are sure to fit."""
    texts = [" ".join(f"rank{number * 7919 % 1000 + word}" for word in range(60)) for number in range(400)]
    path, held_out = write(tmp_path / "a.jsonl", texts), []
    for seed in range(12):
        sources = Sources([path], cap=Cap(tokens=10_000, seed=seed))
        splits = prepare(sources, tmp_path / f"{seed}", prepared.tokenizer, 0.01)
        assert splits["train"]["documents"] > 20
        held_out.append(splits["valid"]["documents"])
    assert max(held_out) <= 3
    assert np.mean(held_out) < 2
    sources = Sources([path], cap=Cap(tokens=900))
    assert prepare(sources, tmp_path / "ends", prepared.tokenizer, 0.1)["valid"]["documents"] > 0


@pytest.mark.parametrize("cap", [Cap(100), Cap(tokens=1000)])
def test_validation_text_of_its_own_is_all_taken(many: Path, prepared: Dataset, tmp_path: Path, cap: Cap) -> None:
    own = write(tmp_path / "own.jsonl", [f"{number} held out" for number in range(500)])
    prepare(Sources([many / "b.jsonl"], cap=cap), tmp_path / "out", prepared.tokenizer, Sources([own]))
    data = Dataset(tmp_path / "out")
    assert data.split("valid").documents == 500
    assert data.split("train").documents == 100 if cap.documents else 950 < data.split("train").tokens <= 1000


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several of its shards, from the beginning of each: the others aren't opened."""
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(12):
        write(folder / f"train-{number:05d}-of-00012.parquet", [f"{number} {count}" for count in range(50)])
    opened = []
    shards = Sources._shards
    monkeypatch.setattr(
        Sources,
        "_shards",
        lambda self, name: [
            type(unit)(unit.stamp, lambda unit=unit: (opened.append(unit.stamp), unit.documents())[1])
            for unit in shards(self, name)
        ],
    )
    sources = Sources([f"hf://{folder}"], cap=Cap(40))
    taken = list(sources.documents())
    assert len(opened) == 8
    assert sorted(int(text.split()[1]) for text in taken) == sorted([*range(5)] * 8)
    assert sorted(Sources([f"hf://{folder}"], cap=Cap(10_000)).documents()) == sorted(
        f"{number} {count}" for number in range(12) for count in range(50)
    )
    with pytest.raises(DataError, match="can't draw from data sets of the hub and from files alike"):
        list(Sources([f"hf://{folder}", tmp_path / "set"], cap=Cap(40)).documents())


def test_readers_in_turns() -> None:
    def reader(name: str, count: int) -> Callable[[], Iterator[str]]:
        return lambda: iter([f"{name}{number}" for number in range(count)])

    readers = [reader("a", 1), reader("b", 3), reader("c", 0), reader("d", 2)]
    assert list(in_turns(readers, 2)) == ["a0", "b0", "b1", "b2", "d0", "d1"]


def test_the_command_line(lost: Callable, many: Path, prepared: Dataset, tmp_path: Path) -> None:
    common = ("prepare", many / "a.parquet", "--tokenizer", prepared.path, "--out")
    answer = lost(*common, tmp_path / "out", "--max-tokens", "2.5k", "--valid-fraction", 0.1, "--json")
    assert answer.code == 0, answer.err
    value = json.loads(answer.out)
    assert 2450 < value["train"]["tokens"] + value["valid"]["tokens"] <= 2500
    for arguments, named in [
        (("--max-documents", "0"), "expected a whole number from 1 to 2**63, such as 250, 10_000, 1.5M or 10B"),
        (("--max-tokens", "1.2345k"), "expected a whole number"),
        (("--max-tokens", "nan"), "expected a whole number"),
        (("--max-tokens", "1e999999"), "expected a whole number"),
        (("--seed", "1"), "has no effect without --max-documents"),
        (("--max-tokens", "3"), "raise --max-tokens"),
        (("--max-tokens", "9M", "--examples"), "no effect with --examples"),
    ]:
        answer = lost(*common, tmp_path / "other", *arguments)
        assert answer.code == 2, arguments
        assert named in " ".join(answer.err.replace("│", " ").split()), answer.err
        assert not (tmp_path / "other").exists()
