"""`lost prepare` killed, or refused by the disk: the same command goes on, to the same bytes."""

import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from folders import contents
from processes import Done, run_python

from lost.data.dataset import Dataset
from lost.data.writer import SplitWriter
from lost.errors import DataError, InterruptedAtOnceError, RunBusyError, StorageError
from lost.prepare.cap import Cap
from lost.prepare.examples import prepare_examples
from lost.prepare.output import ProgressCallback, unseen
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.storage.files import partial_folder, read_sealed_json, sealed_json
from lost.storage.lock import locked
from lost.tokenizer import load_tokenizer

SMALL = """
import sys
import lost.data.writer, lost.prepare.text
lost.data.writer._SHARD_TOKENS = 3000
lost.prepare.text._BATCH_CHARACTERS, lost.prepare.text._WORKER_BYTES = 1000, 1000
if __name__ == "__main__":
    from lost.cli.main import main
    lost.prepare.text._SAVE_SECONDS = float(sys.argv.pop(1))
    main()
"""


def command(folder: Path, out: Path, *more: object, fail: str = "", seconds: float = 0) -> Done:
    """Prepare in another process, in small batches and shards, with a state noted every so many seconds."""
    if "--tokenizer" not in more:
        more = ("--vocab-size", 320, *more)
    script = out.parent / "small.py"
    script.write_text(SMALL)
    arguments = ["prepare", folder, "--out", out, "--workers", 1, *more]
    return run_python(script, seconds, *arguments, LOST_FAIL_POINT=fail)


def test_killed_again_and_again_gives_the_same_bytes(texts: Path, tmp_path: Path) -> None:
    """With one process and with two, in the held-out text's own files too, its state noted before or not."""
    valid = tmp_path / "valid.txt"
    valid.write_text("held out, the rank of the weight\n" * 200)
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert command(texts, straight, "--valid", valid).returncode == 0
    assert len(list(straight.glob("train-*.bin"))) > 3
    lives = [("1=kill", 1, 0), ("9=kill", 1, 0), ("4=kill", 2, 0), ("3=kill", 1, 9), ("11=kill", 2, 0)]
    places = []
    for fail, workers, seconds in lives:
        done = command(
            texts, out, "--valid", valid, "--workers", workers, fail=f"prepare.batch:{fail}", seconds=seconds
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not out.exists()
        place = read_sealed_json(tmp_path / ".partial-out" / "progress.json")["place"]
        places.append((place["unit"], place["documents"]))
    assert places == sorted(places)
    assert places[-1] > places[1] > (0, 0)
    done = command(texts, out, "--valid", valid, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "documents were encoded already" in done.stdout
    assert "training the tokenizer" not in done.stdout
    assert contents(out) == contents(straight)
    assert not (tmp_path / ".partial-out").exists()


@pytest.mark.parametrize("cap", [Cap(documents=30), Cap(tokens=4000)], ids=["documents", "tokens"])
def test_a_cap_goes_on(
    texts: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cap: Cap
) -> None:
    """Killed on the way there, then interrupted after every batch, the last one too: what is taken is the same."""
    for name, value in (("writer._SHARD_TOKENS", 3000), ("text._BATCH_CHARACTERS", 1000), ("text._SAVE_SECONDS", 0)):
        monkeypatch.setattr(f"lost.{'data' if name.startswith('writer') else 'prepare'}.{name}", value)
    own = tmp_path / "own.txt"
    own.write_text("held out, the rank of the weight\n" * 200)

    def make(out: Path, progress: ProgressCallback = unseen) -> None:
        prepare(Sources([texts], cap=cap), out, prepared.tokenizer, Sources([own]), progress)

    def leave(phase: str, *counts: int) -> None:
        if phase == "encoding":
            raise OSError

    make(tmp_path / "straight")
    if cap.tokens:
        more = ("--valid", own, "--tokenizer", prepared.path, "--max-tokens", cap.tokens)
        done = command(texts, tmp_path / "out", *more, fail="prepare.batch:6=kill")
        assert done.returncode == -signal.SIGKILL, done.stderr
    lives = 0
    while not (tmp_path / "out").exists():
        with suppress(OSError):
            make(tmp_path / "out", leave)
        lives += 1
    assert lives > 3
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_what_was_written_after_the_last_note_is_dropped(texts: Path, tmp_path: Path) -> None:
    """As if the system had written more, and other bytes, before it stopped."""
    assert command(texts, tmp_path / "straight").returncode == 0
    assert command(texts, tmp_path / "out", fail="prepare.batch:7=kill").returncode == -signal.SIGKILL
    last = max((tmp_path / ".partial-out").glob("train-*.bin"))
    with last.open("ab") as file:
        file.write(b"\xff" * 999)
    assert command(texts, tmp_path / "out").returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


@pytest.mark.parametrize("workers", [1, 3])
def test_result_does_not_depend_on_the_workers(
    text_folder: Path, prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("lost.prepare.text._WORKER_BYTES", 1000)
    monkeypatch.setattr("lost.prepare.text._BATCH_CHARACTERS", 1000)
    prepare(Sources([text_folder]), tmp_path / "out", 320, 0.04, workers=workers)
    assert contents(tmp_path / "out") == contents(prepared.path)


def test_other_arguments_are_refused(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command(texts, out, fail="prepare.batch:5=kill").returncode == -signal.SIGKILL
    held = contents(tmp_path / ".partial-out")
    (texts / "000.txt").write_text("changed")
    done = command(texts, out, "--exclude", "*.jsonl")
    assert done.returncode == 2
    assert "exclude = ['*.jsonl'], was []" in done.stderr
    assert "checksum of the files' names, sizes and times" in done.stderr
    assert {**contents(tmp_path / ".partial-out"), ".lock": b""} == {**held, ".lock": b""}
    with pytest.raises(DataError, match="holds the beginning of a prepared set that other arguments made"):
        prepare_examples([texts / "more.jsonl"], out, load_tokenizer(tmp_path / ".partial-out"), 0.1)
    assert contents(tmp_path / ".partial-out").keys() == held.keys()
    done = command(texts, out, "--exclude", "*.jsonl", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert command(texts, tmp_path / "straight", "--exclude", "*.jsonl").returncode == 0
    assert contents(out) == contents(tmp_path / "straight")


def test_overwrite_goes_on_too(texts: Path, tmp_path: Path) -> None:
    """A set that is to be replaced stays until the new one is whole."""
    out = tmp_path / "out"
    assert command(texts, out, "--valid-fraction", 0.3).returncode == 0
    before = contents(out)
    assert command(texts, out, "--overwrite", fail="prepare.batch:5=kill").returncode == -signal.SIGKILL
    assert contents(out) == before
    done = command(texts, out, "--overwrite")
    assert "documents were encoded already" in done.stdout
    assert contents(out) != before
    assert list(Dataset(out).problems()) == []


def test_full_disk_and_damaged_text(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk refuses is kept to go on from, what the text can't give isn't."""
    done = command(texts, tmp_path / "out", fail="prepare.batch:5=full")
    assert done.returncode == 2
    assert "run the same command again" in done.stderr
    assert (tmp_path / ".partial-out" / "progress.json").exists()
    assert command(texts, tmp_path / "out").returncode == 0

    def broken(*arguments: object) -> None:
        raise DataError("damaged")

    monkeypatch.setattr("lost.prepare.text.encoded", broken)
    with pytest.raises(DataError, match="damaged"):
        prepare(Sources([texts]), tmp_path / "other", 320, 0.1)
    assert not (tmp_path / ".partial-other").exists()


def test_worker_killed_and_ctrl_c(texts: Path, tmp_path: Path) -> None:
    """A process that encodes is ended by the system, or everything by Ctrl-C: words, an exit code, and it goes on."""
    script = SMALL.replace("import sys", "import sys, os, signal", 1).replace(
        "if __name__",
        "inside = lost.prepare.text.encoded\n"
        "def encoded(batches, tokenizer, folder, workers):\n"
        "    for count, each in enumerate(inside(batches, tokenizer, folder, workers)):\n"
        "        if count == 9:\n"
        "            import multiprocessing\n"
        "            number = getattr(signal, os.environ['KILL'])\n"
        "            victims = [each.pid for each in multiprocessing.active_children()]\n"
        "            os.kill(victims[0] if number == signal.SIGKILL else os.getpid(), number)\n"
        "        yield each\n"
        "lost.prepare.text.encoded = encoded\n"
        "if __name__",
        1,
    )
    (tmp_path / "kill.py").write_text(script)
    for name, code, words in (
        ("SIGKILL", 1, "processes that encode is gone"),
        ("SIGINT", 130, "run the same command again to resume"),
    ):
        out = tmp_path / name
        arguments = ["prepare", texts, "--out", out, "--vocab-size", 320, "--workers", 2]
        done = run_python(tmp_path / "kill.py", 0, *arguments, KILL=name)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        done = command(texts, out)
        assert done.returncode == 0, done.stderr
        assert "documents were encoded already" in done.stdout


SPOIL = {
    "open one short": (1, lambda path: path.write_bytes(path.read_bytes()[:-2]), "bytes long instead"),
    "open one gone": (1, lambda path: path.unlink(), "is missing"),
    "finished one long": (
        0,
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        "6001 bytes long instead of 6000",
    ),
    "finished one gone": (0, lambda path: path.unlink(), "is missing"),
}


@pytest.mark.parametrize(("number", "spoil", "words"), SPOIL.values(), ids=SPOIL)
@pytest.mark.parametrize("older", [False, True], ids=["now", "earlier"])
def test_shards_that_are_gone_are_not_filled_up(
    texts: Path,
    prepared: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    spoil: Callable[[Path], object],
    words: str,
    older: bool,
) -> None:
    """It is said, what is there stays, and --overwrite begins anew; a state of an earlier version has fewer sizes."""
    monkeypatch.setattr("lost.data.writer._SHARD_TOKENS", 3000)
    monkeypatch.setattr("lost.prepare.text._BATCH_CHARACTERS", 1000)
    out, partial = tmp_path / "out", tmp_path / ".partial-out"

    def make(out: Path, progress: ProgressCallback = unseen, overwrite: bool = False) -> None:
        prepare(Sources([texts]), out, prepared.tokenizer, 0.1, progress, overwrite, log=told.append)

    def interrupt(phase: str, done: int, total: int, documents: int = 0, tokens: int = 0) -> None:
        if (partial / "train-00001.bin").exists():
            raise KeyboardInterrupt

    told: list[str] = []
    make(tmp_path / "straight")
    with pytest.raises(InterruptedAtOnceError):
        make(out, interrupt)
    if older:
        state = read_sealed_json(partial / "progress.json")
        del state["splits"]["train"]["files"][-1]["size"]
        (partial / "progress.json").write_bytes(sealed_json(state))
    name = f"train-0000{number}.bin"
    spoil(partial / name)
    held = contents(partial)
    with pytest.raises(DataError, match=f"{name} .*{words}.*--overwrite to begin anew"):
        make(out)
    assert {**contents(partial), ".lock": b""} == {**held, ".lock": b""}
    make(out, overwrite=True)
    assert told == []
    assert contents(out) == contents(tmp_path / "straight")


def test_one_job_at_a_time(text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lost.prepare.output.locked", partial(locked, timeout=0))
    with (
        locked(tmp_path / ".partial-out", print, 0),
        pytest.raises(RunBusyError, match="is in use by process"),
    ):
        prepare(Sources([text_folder]), tmp_path / "out", 320, 0.1)


def test_reopened_shards_go_on(prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer alone: closed shards, an open one, an open one that is exactly at a shard's end."""
    monkeypatch.setattr("lost.data.writer._SHARD_TOKENS", 10)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = SplitWriter(tmp_path / "a", "train", prepared.tokenizer)
    whole.append(np.arange(44) % 300, 3, 99)
    for cut in (1, 9, 19, 30):
        first = SplitWriter(tmp_path / "b", "train", prepared.tokenizer)
        first.append(np.arange(cut) % 300, 1, 33)
        state = first.state()
        first.flush()
        first.append(np.arange(cut, 40), 9, 9)
        second = SplitWriter(tmp_path / "b", "train", prepared.tokenizer, state)
        second.append(np.arange(cut, 44) % 300, 2, 66)
        assert second.close() == whole.close()
        assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_disk_refuses_at_once(text_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        prepare(Sources([text_folder]), tmp_path / "file" / "out", 320, 0.1)


def test_another_command_made_it_meanwhile(text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first look at the place and the lock: nothing is prepared a second time."""
    out = tmp_path / "out"

    def first_the_other(*arguments: object) -> Path:
        monkeypatch.undo()
        prepare(Sources([text_folder]), out, 320, 0.1)
        return partial_folder(out)

    monkeypatch.setattr("lost.prepare.output.partial_folder", first_the_other)
    with pytest.raises(DataError, match="already holds a prepared set"):
        prepare(Sources([text_folder]), out, 320, 0.1)
    assert not (tmp_path / ".partial-out").exists()
