"""From text to shards: round trips, what is held out, what is refused, and that half a set is never left."""

import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from lost.data.dataset import Dataset
from lost.errors import DataError, InterruptedAtOnceError, StorageError
from lost.prepare.encode import START
from lost.prepare.examples import prepare_examples
from lost.prepare.output import unseen
from lost.prepare.sources import Sources, Unit
from lost.prepare.text import _Text, prepare
from lost.tokenizer import load_tokenizer, train_tokenizer
from lost.tokenizer.sentencepiece import PieceTokenizer

ODD = "tab\there  two spaces\n\n\ttrailing \n\u00e9\u00df \u4f60\u597d \U0001f600 \u200d \r\n x=1234567890\n"


def test_any_text_comes_back(prepared: Dataset) -> None:
    tokenizer = prepared.tokenizer
    assert tokenizer.decode(tokenizer.encode(ODD).tolist()) == ODD
    ids = tokenizer.encode(ODD).tolist()
    assert "".join(tokenizer.stream(ids)) == ODD
    assert "".join(tokenizer.stream(20 * ids, 40 * ids)) == 20 * ODD


def test_a_long_text_is_not_decoded_for_every_token(prepared: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, longest = PieceTokenizer.decode, 0

    def recorded(self: PieceTokenizer, ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode(self, ids)

    monkeypatch.setattr(PieceTokenizer, "decode", recorded)
    ids = prepared.tokenizer.encode("the rank of the layer " * 500).tolist()
    assert "".join(prepared.tokenizer.stream(ids, ids)) == "the rank of the layer " * 500
    assert 0 < longest < 100


def test_long_documents_are_encoded_in_parts(prepared: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the rank of the layer\nand the weight\n" * 50
    whole = prepared.tokenizer.encode_documents([text, "of"])
    monkeypatch.setattr("lost.tokenizer.base._LONGEST", 100)
    parts = prepared.tokenizer.encode_documents([text, "of"])
    assert parts.tolist() == whole.tolist()
    assert prepared.tokenizer.decode(prepared.tokenizer.encode("x" * 1000).tolist()) == "x" * 1000


def test_files_are_listed_as_they_are_read(text_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a million of them aren't in memory at once."""
    monkeypatch.setattr("lost.prepare.text._BATCH_CHARACTERS", 1)
    units, listed = Sources.units, []

    def noted(sources: Sources) -> Iterator[Unit]:
        for unit in units(sources):
            listed.append(unit)
            yield unit

    monkeypatch.setattr(Sources, "units", noted)
    batches = _Text(Sources([text_folder]), Sources([text_folder]), None).batches(START)
    ends = [next(batches).end for _ in range(3)]
    assert (ends[-1].unit, len(listed)) == (2, 3)
    assert [batch.end.unit for batch in batches][-1] == 119


def test_same_text_same_set(text_folder: Path, prepared: Dataset, tmp_path: Path) -> None:
    prepare(Sources([text_folder]), tmp_path / "again", 320, 0.04)
    assert Dataset(tmp_path / "again").fingerprint == prepared.fingerprint


def test_whole_documents_are_held_out(text_folder: Path, prepared: Dataset) -> None:
    assert prepared.split("valid").documents == 2
    assert prepared.split("train").documents == 58


def test_equal_documents_are_held_out_together(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {number % 30} of the rank " * 20}) for number in range(120)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    prepare(Sources([tmp_path / "x.jsonl"]), tmp_path / "out", 300, 0.04)
    assert Dataset(tmp_path / "out").split("valid").documents == 4  # of 120, one text that is there four times


def test_one_document_has_its_end_held_out(tmp_path: Path) -> None:
    text = "".join(f"line {number} of the rank and the weight\n" for number in range(400))
    (tmp_path / "one.txt").write_text(text)
    prepare(Sources([tmp_path / "one.txt"]), tmp_path / "out", 300, 0.1)
    data = Dataset(tmp_path / "out")
    parts = []
    for name in ("train", "valid"):
        split = data.split(name)
        parts.append(data.tokenizer.decode(split.read(1, split.tokens - 2).tolist()))
    assert "".join(parts) == text
    assert 0.08 < len(parts[1]) / len(text) < 0.12


@pytest.mark.parametrize("text", ["word " * 2000, "x" * 10_000])
def test_text_without_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "one.txt").write_text(text)
    prepare(Sources([tmp_path / "one.txt"]), tmp_path / "out", 264, 0.1)
    data = Dataset(tmp_path / "out")
    assert 0.05 < data.split("valid").bytes / len(text) < 0.15
    assert data.split("valid").bytes + data.split("train").bytes == len(text)


def test_own_validation_and_output_inside_the_folder_are_not_trained_on(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "held.txt"):
        (tmp_path / name).write_text(f"{name} of the rank\n" * 30)
    for _ in range(2):
        prepare(Sources([tmp_path]), tmp_path / "out", 280, Sources([tmp_path / "held.txt"]), overwrite=True)
        assert Dataset(tmp_path / "out").split("train").documents == 2
    named = Sources([tmp_path / name for name in ("a.txt", "b.txt", "held.txt")])  # as a shell's glob does
    prepare(named, tmp_path / "named", 280, Sources([tmp_path / "held.txt"]))
    assert Dataset(tmp_path / "named").split("train").documents == 2
    for name in ("hf://a/b", "a/b"):  # the same set
        with pytest.raises(DataError, match=rf"{name} would be trained on and validated with"):
            prepare(Sources([name]), tmp_path / "hub", 280, Sources(["hf://a/b"]))


def test_text_is_never_replaced(text_folder: Path, tmp_path: Path) -> None:
    """--out on the text itself, or above it, or on something else, --overwrite or not."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("the rank\n" * 99)
    other = tmp_path / "notes"
    other.mkdir()
    (other / "b.txt").write_text("mine, " * 99)
    for out in (tmp_path / "text", tmp_path, other, other / "b.txt"):
        with pytest.raises(DataError, match=r"would replace the text|is not a prepared set"):
            prepare(Sources([tmp_path / "text"]), out, 280, 0.1, overwrite=True)
    assert (tmp_path / "text" / "a.txt").exists()
    prepare(Sources([other]), tmp_path / "out", 270, 0.1)
    held = tmp_path / "out" / "held.txt"
    held.write_text("the rank\n" * 99)
    with pytest.raises(DataError, match="would replace the text"):
        prepare(Sources([tmp_path / "text"]), tmp_path / "out", 280, Sources([held]), overwrite=True)
    with pytest.raises(DataError, match="would replace the text"):
        prepare_examples([other / "b.txt"], tmp_path / "out", load_tokenizer(tmp_path / "out"), [held], overwrite=True)
    assert (other / "b.txt").read_text() == "mine, " * 99


def test_where_a_link_leads(text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--out may be a link to another disk, to an empty folder there or to a set that is to be replaced."""
    out = tmp_path / "out"
    (tmp_path / "disk" / "set").mkdir(parents=True)
    out.symlink_to(tmp_path / "disk" / "set")
    for overwrite in (False, True):
        prepare(Sources([text_folder]), out, 320, 0.1, overwrite=overwrite)
        assert Dataset(out).split("train").documents == 54
    assert out.is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["set"]
    monkeypatch.setattr(Path, "is_mount", lambda path: True)
    with pytest.raises(StorageError, match="is a mount point"):
        prepare(Sources([text_folder]), out, 320, 0.1, overwrite=True)


def test_progress_stays_within_the_text(text_folder: Path, tmp_path: Path) -> None:
    """Validation text of its own isn't part of what was surveyed."""
    (tmp_path / "held.txt").write_text("held out, the rank of the weight\n" * 20_000)
    shown = []

    def progress(phase: str, done: int, total: int, documents: int = 0, tokens: int = 0) -> None:
        if phase == "encoding":
            shown.append(done / total)

    prepare(Sources([text_folder]), tmp_path / "out", 320, Sources([tmp_path / "held.txt"]), progress)
    assert max(shown) == 1


def test_validation_text_is_not_trained_on_wherever_it_stands(prepared: Dataset, tmp_path: Path) -> None:
    """A file in a folder of it, and a link to one; and where nothing else is left, that is said."""
    held, other = tmp_path / "held", tmp_path / "other"
    for folder in (held, other):
        folder.mkdir()
        (folder / "a.txt").write_text(f"the rank of {folder.name} " * 50)
    (other / "link.txt").symlink_to(held / "a.txt")
    out = tmp_path / "set"
    prepare(Sources([held / "a.txt", other]), out, prepared.tokenizer, Sources([held]))
    text = prepared.tokenizer.decode(Dataset(out).split("train").read(0, Dataset(out).split("train").tokens).tolist())
    assert "rank of other" in text
    assert "held" not in text
    for given in ([held], [held / "a.txt"], [other / "link.txt"]):
        with pytest.raises(DataError, match="would be trained on and validated with; expected different text"):
            prepare(Sources(given), tmp_path / "no", prepared.tokenizer, Sources([held]))


def test_examples_to_validate_with_are_not_learned(prepared: Dataset, tmp_path: Path) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file, count in zip(files, (3, 2), strict=True):
        file.write_text("".join(f'{{"prompt": "{file.stem}", "completion": "rank {n}"}}\n' for n in range(count)))
    splits = prepare_examples(files, tmp_path / "set", prepared.tokenizer, files[1:])
    assert [splits[name]["documents"] for name in ("train", "valid")] == [3, 2]
    with pytest.raises(DataError, match="would be trained on and validated with"):
        prepare_examples(files[1:], tmp_path / "no", prepared.tokenizer, files[1:])
    splits = prepare_examples(files[1:], tmp_path / "few", prepared.tokenizer, 0.9)
    assert [splits[name]["documents"] for name in ("train", "valid")] == [1, 1]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"body": "x"}\n', "held.jsonl:1: no text under 'text'"),
        (b'{"text": "x"}\n' * 99 + b"\xff\n", "held.jsonl:100: not a JSON object"),
        (b"", "there is no text in .*held.jsonl"),
    ],
)
def test_wrong_validation_text_is_said_before_anything_is_encoded(
    text_folder: Path, prepared: Dataset, tmp_path: Path, content: bytes, named: str
) -> None:
    (tmp_path / "held.jsonl").write_bytes(content)
    phases = []

    def progress(phase: str, *counts: int) -> None:
        phases.append(phase)

    with pytest.raises(DataError, match=named):
        prepare(Sources([text_folder]), tmp_path / "out", 320, Sources([tmp_path / "held.jsonl"]), progress)
    assert set(phases) <= {"reading validation"}


def test_wrong_validation_examples_are_said_before_the_others_are_encoded(prepared: Dataset, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "the rank"}\n')
    phases = []

    def progress(phase: str, *counts: int) -> None:
        phases.append(phase)

    for content, named in (
        ('{"body": "x"}', "held.jsonl:1: the keys are body"),
        ("", "no example for the valid split"),
    ):
        (tmp_path / "held.jsonl").write_text(content)
        with pytest.raises(DataError, match=named):
            prepare_examples(
                [tmp_path / "a.jsonl"], tmp_path / "out", prepared.tokenizer, [tmp_path / "held.jsonl"], progress
            )
    assert phases == []


def test_what_is_left_out_is_named_once_and_after_a_resume(
    prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links and files that are not text, in both splits; encoding that goes on behind them doesn't see them again."""
    monkeypatch.setattr("lost.prepare.text._BATCH_CHARACTERS", 1)
    (tmp_path / "secret").write_text("private")
    for name in ("train", "held"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "link.txt").symlink_to(tmp_path / "secret")
        (tmp_path / name / "image.png").write_bytes(b"\xff")
        for number in range(3):
            (tmp_path / name / f"text {number}.txt").write_text(f"the rank of {name} {number}")

    def interrupt(phase: str, done: int, total: int, documents: int = 0, tokens: int = 0) -> None:
        if phase == "encoding" and documents == 5:  # of six: behind all that is left out
            raise KeyboardInterrupt

    for progress in (interrupt, unseen):
        sources, own = Sources([tmp_path / "train"]), Sources([tmp_path / "held"])
        with suppress(InterruptedAtOnceError):
            prepare(sources, tmp_path / "out", prepared.tokenizer, own, progress)
    whole = Sources([tmp_path / "train"]), Sources([tmp_path / "held"])
    prepare(whole[0], tmp_path / "whole", prepared.tokenizer, whole[1])
    for each, name in ((sources, "train"), (own, "held"), (whole[0], "train"), (whole[1], "held")):
        assert each.links == [tmp_path / name / "link.txt"]
        assert each.skipped == [tmp_path / name / "image.png"]


def test_little_of_a_short_document_is_held_out(prepared: Dataset, tmp_path: Path) -> None:
    """Its only line break may be far from the end."""
    file = tmp_path / "short.txt"
    file.write_text("x\n" + "the-rank" * 20 + " of it")
    splits = prepare(Sources([file]), tmp_path / "set", prepared.tokenizer, 0.01)
    assert splits["valid"]["bytes"] < 0.11 * file.stat().st_size


def test_json_lines_gzip_own_validation_and_own_tokenizer(prepared: Dataset, tmp_path: Path) -> None:
    for name in ("train", "valid"):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps({"body": f"{name} {number} of the rank"}) + "\n" for number in range(9))
    sources = [Sources([tmp_path / f"{name}.jsonl.gz"], text_key="body") for name in ("train", "valid")]
    prepare(sources[0], tmp_path / "out", load_tokenizer(prepared.path), sources[1])
    data = Dataset(tmp_path / "out")
    assert data.tokenizer.fingerprint == prepared.tokenizer.fingerprint
    assert data.split("valid").documents == data.split("train").documents == 9


def test_folders_take_and_leave_by_name_and_say_what_is_not_text(tmp_path: Path) -> None:
    for name in ("a.py", "b.txt", "skip/c.py", ".hidden.py", "__pycache__/d.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "e.py").write_bytes(b"\xff\xfe")
    (tmp_path / "f.py").symlink_to(tmp_path / "nowhere.py")
    sources = Sources([tmp_path], include=["*.py"], exclude=["skip"])
    assert list(sources.documents()) == ["a.py"]
    assert sources.skipped == [tmp_path / "e.py", tmp_path / "f.py"]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("image.txt", b"\x89PNG\r\n", "is not text: byte 0 is 0x89"),
        ("nul.txt", b"a\0b", "NUL byte at 1"),
        ("bad.jsonl", b'{"text": 1}\n', "bad.jsonl:1: no text under 'text'"),
        ("worse.jsonl", b'{"text": "x"}\n[\n', "worse.jsonl:2: not a JSON object"),
        ("list.jsonl", b"[1]\n", "list.jsonl:1: not a JSON object .it holds a list"),
        ("empty.txt", b"", "there is no text in"),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "x"}' * 99, mtime=0)[:-9], "is damaged"),
    ],
)
def test_refused_text(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=named):
        prepare(Sources([tmp_path / name]), tmp_path / "out", 300, 0.1)
    assert not (tmp_path / "out").exists()


def test_refused_arguments(text_folder: Path, prepared: Dataset, tmp_path: Path) -> None:
    sources = Sources([text_folder])
    with pytest.raises(DataError, match="already holds a prepared set"):
        prepare(sources, prepared.path, 320, 0.1)
    with pytest.raises(DataError, match="--vocab-size 100000"):
        prepare(sources, tmp_path / "out", 100_000, 0.1)
    with pytest.raises(DataError, match=r"--valid-fraction 1\.5"):
        prepare(Sources([tmp_path / "nowhere"]), tmp_path / "out", 320, 1.5)  # before anything is read
    with pytest.raises(DataError, match="doesn't exist"):
        prepare(Sources([tmp_path / "nowhere"]), tmp_path / "out", 320, 0.1)
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_without_end_of_text_and_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer at"):
        load_tokenizer(tmp_path)
    (tmp_path / "x.model").write_bytes(b"not a model")
    with pytest.raises(DataError, match="is not a sentencepiece model"):
        load_tokenizer(tmp_path / "x.model")


def test_prepared_data_with_another_tokenizer_inside(prepared: Dataset, text_folder: Path, tmp_path: Path) -> None:
    prepare(Sources([text_folder]), tmp_path / "out", 320, 0.1)
    train_tokenizer(["another text of the rank and of the weight"] * 99, 290).save(tmp_path / "out")
    with pytest.raises(DataError, match="is not the one that the shards were made with"):
        Dataset(tmp_path / "out")


def test_damaged_sets(text_folder: Path, tmp_path: Path) -> None:
    prepare(Sources([text_folder]), tmp_path / "out", 320, 0.1)
    shard = tmp_path / "out" / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    assert "doesn't have the checksum" in next(Dataset(tmp_path / "out").problems())
    shard.write_bytes(content[:-2])
    with pytest.raises(DataError, match="bytes long; expected"):
        Dataset(tmp_path / "out").split("train")
    shard.unlink()
    with pytest.raises(DataError, match="is missing"):
        Dataset(tmp_path / "out").split("train")
    description = tmp_path / "out" / "dataset.json"
    whole = description.read_text()
    for content in (whole.replace('"bytes": ', '"bytes": 1'), "[]", "{"):
        description.write_text(content)
        with pytest.raises(DataError, match="is damaged"):
            Dataset(tmp_path / "out")
    description.unlink()
    with pytest.raises(DataError, match="holds no prepared data"):
        Dataset(tmp_path / "out")
