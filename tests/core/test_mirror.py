"""Checkpoints mirrored elsewhere and fetched from there, on fsspec's local and memory file systems."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import rmtree
from traceback import format_exception

import fsspec
import pytest
from folders import contents
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from lost.checkpoint import checkpoints, open_checkpoint
from lost.checkpoint.mirror import Mirror, fetch
from lost.data.dataset import Dataset
from lost.errors import CheckpointError, NetworkError
from lost.storage.files import sealed_json
from lost.storage.remote import Remote

MEMORY = "memory://mirror"


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def train(lost: Callable, tiny_yaml: Path, prepared: Dataset) -> Callable:
    """Train 20 steps with four saves, further settings given."""

    def call(run: Path, *more: object) -> object:
        settings = ("train.save_every=5", "train.keep_last=2", "train.keep_every=15", "train.eval_every=0")
        return lost("train", tiny_yaml, *settings, *more, "--data", prepared.path, "--out", run, "--device", "cpu")

    return call


def held(address: str) -> dict[str, bytes]:
    """All files at an address, by their names from `checkpoints` on."""
    fs, root = fsspec.core.url_to_fs(address)
    files = fs.find(root)
    return {path.partition("/checkpoints/")[2]: fs.cat_file(path) for path in files}


def files(run: Path) -> dict[str, bytes]:
    return contents(run / "checkpoints")


def arrays(run: Path) -> dict[str, bytes]:
    found = open_checkpoint(checkpoints(run / "checkpoints")[-1])
    assert found.progress.step == 20
    return {name: array.tobytes() for name, array in (*found.parameters(), *found.moments())}


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_mirrored_fetched_and_resumed(
    train: Callable, lost: Callable, prepared: Dataset, tmp_path: Path, kind: str
) -> None:
    """The same files there as here, what goes here goes there; fetched, the run ends with the same bits."""
    address = MEMORY if kind == "memory" else f"file://{tmp_path}/far/away"
    assert train(tmp_path / "straight").code == 0
    stopped = train(tmp_path / "run", "train.stop_after=15", "--mirror", address)
    assert stopped.code == 0, stopped.err
    assert held(address) == files(tmp_path / "run")
    assert {name.split("/")[0] for name in held(address)} == {"step-00000010", "step-00000015"}

    answer = lost("fetch", address, "--out", tmp_path / "again", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["step"] == 15
    done = lost("train", tmp_path / "again", "--set", "train.stop_after=null", "--mirror", address, "--device", "cpu")
    assert done.code == 0, done.err
    assert "resuming" in done.out
    assert arrays(tmp_path / "again") == arrays(tmp_path / "straight")
    assert {name.split("/")[0] for name in held(address)} == {"step-00000015", "step-00000020"}
    assert lost("verify", tmp_path / "again").code == 0


def test_what_fails_there_is_said_and_made_up(train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training doesn't stop, each failure is said once, and the next save copies what is missing."""
    put, calls = LocalFileSystem.put_file, []

    def failing(self: LocalFileSystem, source: str, target: str, **more: object) -> None:
        calls.append(target)
        if len(calls) == 1:
            raise TimeoutError("no answer")
        put(self, source, target, **more)

    monkeypatch.setattr(LocalFileSystem, "put_file", failing)
    done = train(tmp_path / "run", "--mirror", f"file://{tmp_path}/far")
    assert done.code == 0, done.err
    assert done.out.count("not mirrored: ") == 1
    assert "TimeoutError: no answer; expected a store that answers" in " ".join(done.out.split())
    assert held(f"file://{tmp_path}/far") == files(tmp_path / "run")
    assert "not mirrored: " in (tmp_path / "run" / "log.txt").read_text()


def test_a_copy_that_is_not_the_same_is_never_sealed(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalFileSystem.put_file

    def damaging(self: LocalFileSystem, source: str, target: str, **more: object) -> None:
        put(self, source, target, **more)
        if "step-00000020" in target and target.endswith(".safetensors"):
            Path(target).write_bytes(Path(target).read_bytes()[:-1] + b"?")

    monkeypatch.setattr(LocalFileSystem, "put_file", damaging)
    done = train(tmp_path / "run", "--mirror", f"file://{tmp_path}/far")
    assert done.code == 0, done.err
    assert "doesn't have the checksum it was written with; expected a copy of" in " ".join(done.out.split())
    assert not (tmp_path / "far" / "checkpoints" / "step-00000020" / "manifest.json").exists()
    checkpoint, skipped = fetch(Remote(f"file://{tmp_path}/far"), tmp_path / "again")
    assert checkpoint.progress.step == 15
    assert ["isn't sealed: its copy was broken off" in each for each in skipped] == [True]


def test_another_run_s_mirror_is_left_alone(train: Callable, tmp_path: Path) -> None:
    """Nothing is written or removed there, of steps with other numbers (6, 12, 18) or the same (20)."""
    assert train(tmp_path / "one", "--mirror", MEMORY).code == 0
    before = held(MEMORY)
    done = train(tmp_path / "two", "train.seed=1", "train.save_every=6", "--mirror", MEMORY)
    assert done.code == 0
    assert "is a checkpoint of another run; expected an address of this run's own" in " ".join(done.out.split())
    assert held(MEMORY) == before


def test_of_unsealed_copies_only_its_own_are_removed(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was broken off goes once its checkpoint has gone here; one that this run never began stays."""
    assert train(tmp_path / "run").code == 0
    folder = tmp_path / "run" / "checkpoints"
    fsspec.filesystem("memory").pipe_file("/mirror/checkpoints/step-00000007/model-0.safetensors", b"another's")
    put, calls = MemoryFileSystem.put_file, []

    def failing(self: MemoryFileSystem, source: str, target: str, **more: object) -> None:
        calls.append(target)
        if "step-00000015" in target and len([each for each in calls if "step-00000015" in each]) > 1:
            raise TimeoutError("no answer")
        put(self, source, target, **more)

    monkeypatch.setattr(MemoryFileSystem, "put_file", failing)
    mirror = Mirror(folder, Remote(MEMORY))
    mirror.update(keep_last=2, keep_every=0)
    mirror.wait()
    assert ["no answer" in each for each in mirror.said()] == [True]
    assert {name.split("/")[0] for name in held(MEMORY)} == {"step-00000007", "step-00000015", "step-00000020"}
    rmtree(folder / "step-00000015")
    mirror.update(keep_last=1, keep_every=0)
    mirror.wait()
    assert not [*mirror.said()]
    assert held(MEMORY) == files(tmp_path / "run") | {"step-00000007/model-0.safetensors": b"another's"}


@pytest.mark.parametrize("damage", [lambda manifest: manifest[:99], lambda manifest: b" " * ((1 << 26) + 1)])
def test_a_damaged_manifest_there_is_replaced(train: Callable, tmp_path: Path, damage: Callable) -> None:
    """Until then an older one is fetched; once a run has the checkpoint its copy is made anew, which is said once."""
    assert train(tmp_path / "run", "train.stop_after=15", "--mirror", MEMORY).code == 0
    fs, manifest = fsspec.filesystem("memory"), "/mirror/checkpoints/step-00000015/manifest.json"
    fs.pipe_file(manifest, damage(fs.cat_file(manifest)))
    checkpoint, skipped = fetch(Remote(MEMORY), tmp_path / "again")
    assert checkpoint.progress.step == 10
    assert [each.startswith("memory://mirror/checkpoints/step-00000015/manifest.json ") for each in skipped] == [True]
    done = train(tmp_path / "run", "train.stop_after=null", "--mirror", MEMORY)
    assert done.code == 0, done.err
    said = "memory://mirror/checkpoints/step-00000015 was damaged: copied anew"
    assert " ".join(done.out.split()).count(said) == 1
    assert held(MEMORY) == files(tmp_path / "run")


def test_nothing_there_is_trusted(train: Callable, tmp_path: Path) -> None:
    """Files under other names, longer, shorter, of another step, a manifest without end: nothing is left behind."""
    assert train(tmp_path / "run", "train.keep_last=1", "train.keep_every=0", "--mirror", MEMORY).code == 0
    fs = fsspec.filesystem("memory")
    there = "/mirror/checkpoints/step-00000020"
    manifest = json.loads(fs.cat_file(f"{there}/manifest.json"))
    manifest.pop("seal")
    name = next(each for each in manifest["files"] if each.startswith("model"))
    weights = fs.cat_file(f"{there}/{name}")
    entry = manifest["files"][name]
    elsewhere = {**manifest, "files": {**manifest["files"], f"../../../{name}": entry}}
    wider = {**manifest["config"], "model": {**manifest["config"]["model"], "intermediate_size": 640}}
    cases = [
        ({f"{there}/manifest.json": sealed_json({**manifest, "config": wider})}, "this checkpoint is damaged"),
        ({f"{there}/manifest.json": sealed_json(elsewhere)}, "a file outside its folder"),
        ({f"{there}/manifest.json": sealed_json({**manifest, "step": 19})}, "is of step 19"),
        ({f"{there}/manifest.json": b"{}"}, "is damaged"),
        ({f"{there}/manifest.json": b" " * ((1 << 26) + 1)}, "has more than 64 MiB"),
        ({f"{there}/{name}": weights + b"more"}, "is longer than"),
        ({f"{there}/{name}": weights[:-1]}, "bytes instead of"),
        ({f"{there}/{name}": weights[:-1] + b"?"}, "doesn't have the checksum"),
    ]
    good = {path: fs.cat_file(path) for path in fs.find("/mirror")}
    for changed, named in cases:
        for path, content in {**good, **changed}.items():
            fs.pipe_file(path, content)
        with pytest.raises(Exception, match=named) as refused:
            fetch(Remote(MEMORY), tmp_path / "again")
        assert refused.value.exit_code == 2
        assert "memory://mirror/checkpoints/step-00000020" in str(refused.value)
        assert str(tmp_path) not in str(refused.value)  # where nothing is left
        assert files(tmp_path / "again") == {}
    assert {path.name for path in tmp_path.iterdir()} == {"run", "again", "tiny.yaml"}


def test_a_password_in_the_address_is_neither_shown_nor_kept(
    train: Callable, lost: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by our messages, not by those of clients, nor by what names the command in the run folder."""
    address = "memory://ann:s%40cret@host/mirror"

    def refusing(self: MemoryFileSystem, path: str, *more: object, **others: object) -> None:
        raise PermissionError(f"{address} doesn't let ann in with s@cret, from s%40cret")

    for name in ("ls", "put_file"):
        monkeypatch.setattr(MemoryFileSystem, name, refusing)
    trained = train(tmp_path / "run", "train.stop_after=5", "--mirror", address)
    fetched = lost("fetch", address, "--out", tmp_path / "again")
    assert (trained.code, fetched.code) == (0, 75)
    log, lock = ((tmp_path / "run" / name).read_text() for name in ("log.txt", ".lock"))
    assert "not mirrored: memory://host/mirror" in log
    assert "--mirror memory://host/mirror" in log
    assert "--mirror memory://host/mirror" in lock
    assert "memory://host/mirror doesn't let ann in with ***, from ***" in " ".join(fetched.err.split())
    for text in (trained.out, trained.err, fetched.out, fetched.err, log, lock):
        assert "cret" not in text
    with pytest.raises(NetworkError) as refused:
        Remote(address).names("checkpoints")
    assert "cret" not in "".join(format_exception(refused.value))  # what --debug shows


class Closed(MemoryFileSystem):
    """A client that connects when it is made, and can't."""

    def __init__(self, **options: object) -> None:
        raise ValueError("no route")


def test_refused(train: Callable, lost: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("closed", Closed, clobber=True)
    assert train(tmp_path / "run", "train.stop_after=5", "--mirror", MEMORY).code == 0
    cases = [
        (("memory://nothing", "--out", tmp_path / "a"), 2, "memory://nothing holds no usable checkpoint"),
        ((MEMORY, "--out", tmp_path / "run"), 2, "holds step-00000005 already"),
        ((tmp_path / "run", "--out", tmp_path / "b"), 2, "is no address; expected one such as s3://bucket/run"),
        (("nowhere://x", "--out", tmp_path / "c"), 2, "Protocol not known: nowhere; expected one"),
        (("nowhere::memory://x", "--out", tmp_path / "c"), 2, "Protocol not known: nowhere; expected one"),
        (
            ("closed://x", "--out", tmp_path / "c"),
            75,
            "closed://x: ValueError: no route; expected a store that answers",
        ),
    ]
    for arguments, code, named in cases:
        answer = lost("fetch", *arguments)
        assert answer.code == code
        assert named in " ".join(answer.err.split()), answer.err

    def down(self: MemoryFileSystem, path: str, **more: object) -> list[str]:
        raise ConnectionError("connection refused")

    monkeypatch.setattr(MemoryFileSystem, "ls", down)
    answer = lost("fetch", MEMORY, "--out", tmp_path / "d")
    assert (answer.code, "ConnectionError: connection refused" in answer.err) == (75, True)
    with pytest.raises(NetworkError):
        Remote(MEMORY).names("checkpoints")
    answer = train(tmp_path / "other", "--mirror", "nowhere://x")
    assert answer.code == 2  # before anything is trained
    assert not (tmp_path / "other").exists()
    assert CheckpointError.exit_code == 2
