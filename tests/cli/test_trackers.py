"""TensorBoard, wandb, trackio: every reported step once, also after a life of the run that was lost."""

import errno
import io
import json
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import indent
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lost.config import Config
from lost.data.dataset import Dataset
from lost.tracking.metrics import MetricsFile
from lost.tracking.wandb import Wandb

Lost = Callable[..., Any]
Train = Callable[..., Any]


@pytest.fixture
def train(lost: Lost, tiny_yaml: Path, prepared: Dataset, tmp_path: Path) -> Train:
    """Train the run with these settings; at steps 10 and 20 it evaluates, measures, and writes a text."""

    def call(*settings: str, more: tuple[str, ...] = ()) -> Any:
        every = (f"train.{what}_every=10" for what in ("eval", "inspect", "noise_scale", "sample"))
        words = [word for value in (*every, *settings) for word in ("--set", value)]
        return lost("train", tiny_yaml, "--data", prepared.path, "--out", tmp_path / "run", "--backend", "torch",
                    "--device", "cpu", *words, *more)  # fmt: skip

    return call


def lives(train: Train, run: Path, tracker: str) -> None:
    """Train to step 15, lose the checkpoint of that step, and train from step 10 to the end."""
    assert train(tracker, "train.stop_after=15").code == 0
    shutil.rmtree(run / "checkpoints" / "step-00000015")
    answer = train(tracker)
    assert answer.code == 0, answer.err
    assert "from step 10" in answer.out
    assert "failed" not in answer.out


def written(run: Path) -> dict[str, dict[int, float]]:
    """Numbers of metrics.jsonl, by name and step."""
    found: dict[str, dict[int, float]] = {}
    names = {"loss": "train/loss", "validation_loss": "validation/loss", "lr": "train/lr"}
    names |= {"largest_logit": "inspection/largest_logit", "gradient_square": "noise/gradient_square"}
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for key, name in names.items():
            if key in row:
                found.setdefault(name, {})[row["step"]] = row[key]
    return found


def samples(run: Path) -> dict[int, str]:
    """Texts of metrics.jsonl by step."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["texts"][0]["text"] for row in rows if "texts" in row}


def table(text: str) -> dict[str, Any]:
    """What wandb and trackio are given of a text."""
    return {"columns": ["prompt", "text"], "data": [["", text]]}


def events(run: Path) -> Iterator[Any]:
    """Read the event file back: a length and its checksum, an event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (run / "tracking" / "tensorboard").glob("events.*")
    content = file.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_tensorboard(train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lives(train, run, "tracking.tensorboard=true")
    found: dict[str, list[tuple[int, float]]] = {}
    times = []
    for event in events(run):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
            times.append(event.wall_time)
    for name, values in written(run).items():
        assert found[name] == [(step, pytest.approx(value, rel=1e-6)) for step, value in values.items()], name
    assert [step for step, _ in found["checkpoint/seconds"]] == [10, 20]
    assert [step for step, _ in found["samples/seconds"]] == [10, 20]
    texts = {event.step: value.tensor.string_val[0].decode() for event in events(run) for value in event.summary.value
             if value.tag == "samples/1/text_summary"}  # fmt: skip
    assert texts == {step: indent(text, "    ", lambda line: True) for step, text in samples(run).items()}
    assert times == sorted(times)


class Filling(io.FileIO):
    """A file on a disk that has no room for more than so many bytes."""

    def __init__(self, path: str, room: int) -> None:
        super().__init__(path, "w")
        self._room = room

    def write(self, data: Any) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize("room", [0, 9000])
def test_a_disk_that_is_full(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """From the start, or amid the run: it neither waits for room nor ends."""
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: io.BufferedWriter(Filling(path, room)))
    answer = train("tracking.tensorboard=true")
    assert answer.code == 0, answer.err
    assert answer.out.count("tracking.tensorboard failed (OSError: [Errno 28] No space left on device)") == 1
    assert list(written(tmp_path / "run")["train/loss"]) == list(range(1, 21))


class Server:
    """What wandb and trackio do for a training, kept in memory."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, dict[int, float]]] = {}
        self.begun: list[dict[str, Any]] = []
        self.wandb: list[WandbRun] = []

    def run(self, name: str) -> "Run":
        return Run(self.runs.setdefault(name, {}))

    def wandb_run(self, name: str) -> "WandbRun":
        self.wandb.append(WandbRun(self.runs.setdefault(name, {})))
        return self.wandb[-1]


class Run:
    def __init__(self, history: dict[str, dict[int, float]]) -> None:
        self.history = history
        self.step = max((step for each in history.values() for step in each), default=-1) + 1
        self.exit_code: int | None = None

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            assert self.history.setdefault(name, {}).setdefault(step, value) == value, f"{name} of step {step} twice"

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class WandbRun(Run):
    """One whose step is that of the last values, and which drops those of an earlier one."""

    def log(self, values: dict[str, float], step: int) -> None:
        if step >= self.step:
            self.step = step
            super().log(values, step)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()

    def wandb_init(**more: Any) -> Run:
        server.begun.append(more)
        if more["mode"] == "offline":
            folder = Path(more["dir"], "wandb", f"offline-run-{len(server.begun)}-{more['id']}")
            folder.mkdir(parents=True)
            return server.wandb_run(str(folder))
        return server.wandb_run(more["id"])

    def trackio_init(project: str, name: str, **more: Any) -> Run:
        print("* Created new run")
        server.begun.append({"project": project, "name": name, **more})
        return server.run(name)

    def runs(project: str) -> list[Any]:
        if not server.runs:
            raise ValueError(f"Project {project!r} does not exist")
        return [SimpleNamespace(name=name, delete=lambda name=name: server.runs.pop(name)) for name in server.runs]

    wandb, trackio = ModuleType("wandb"), ModuleType("trackio")
    vars(wandb).update(init=wandb_init, Settings=dict, Table=dict)
    api = SimpleNamespace(runs=runs)
    vars(trackio).update(init=trackio_init, Table=dict, Api=lambda: api, finish=lambda: print("* Run finished"))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    return server


def test_wandb_offline(train: Train, tmp_path: Path, server: Server) -> None:
    """The folder of the life that was lost is gone; the one that is there has all steps, of the same run."""
    run = tmp_path / "run"
    lives(train, run, "tracking.wandb={mode: offline, project: p, tags: [a]}")
    (folder,) = (run / "tracking" / "wandb" / "wandb").iterdir()
    history = server.runs[str(folder)]
    assert {name: history[name] for name in written(run)} == written(run)
    assert history["samples"] == {step: table(text) for step, text in samples(run).items()}
    first, second = server.begun
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["tags"], first["resume"]) == ("p", "run", ["a"], "allow")
    assert first["config"]["optimizer"]["lr"] == 0.01


def test_wandb_online(train: Train, tmp_path: Path, server: Server) -> None:
    """The server has the steps of the life that was lost, and is told none of them again."""
    run = tmp_path / "run"
    lives(train, run, "tracking.wandb=true")
    assert [each["mode"] for each in server.begun] == [None, None]
    (history,) = server.runs.values()
    assert list(history["train/loss"]) == list(range(1, 21))
    assert history["samples"] == {step: table(text) for step, text in samples(tmp_path / "run").items()}
    assert history["checkpoint/step"].keys() == history["checkpoint/seconds"].keys()
    assert {10, 15, 20} >= set(history["checkpoint/step"].values()) >= {10, 20}
    assert [run.exit_code for run in server.wandb] == [0, 0]
    train("tracking.wandb=true", more=("--fresh", "--overwrite"))
    assert len(server.runs) == 2  # what it was told can't be taken back
    assert server.begun[-1]["id"] != server.begun[0]["id"]


def test_a_save_that_ends_steps_later(tmp_path: Path, config: Callable[..., Config], server: Server) -> None:
    """What wandb takes of no step that is past, it takes of the one that the run is at; of another life, not again."""

    def life(begun: int, rows: list[dict[str, Any]]) -> None:
        log, tracker = MetricsFile(tmp_path), Wandb(tmp_path, config(), {})
        for each in (log, tracker):
            each.begin(begun)
        for row in rows:
            log.row(row)
            tracker.row(row)

    steps = [{"step": step, "loss": step / 2, "seconds": 1.0} for step in range(1, 9)]
    saves = [{"step": step, "checkpoint": f"step-{step}", "seconds": step / 4} for step in (2, 6)]
    life(0, [*steps[:4], saves[0], *steps[4:6]])
    life(4, [*steps[4:7], saves[1], steps[7]])
    (history,) = server.runs.values()
    assert history["train/loss"] == {row["step"]: row["loss"] for row in steps}
    assert history["checkpoint/step"] == {4: 2, 7: 6}
    assert history["checkpoint/seconds"] == {4: 0.5, 7: 1.5}


@pytest.mark.parametrize(("more", "code"), [((), 0), (("optimizer.lr=1e30", "train.max_skipped=2"), 1)])
def test_wandb_is_told_how_it_ended(train: Train, server: Server, more: tuple[str, ...], code: int) -> None:
    answer = train("tracking.wandb=true", "train.noise_scale_every=0", "train.stop_after=9", *more)
    assert answer.code == code, answer.err
    assert [run.exit_code for run in server.wandb] == [code]


def test_trackio(train: Train, tmp_path: Path, server: Server) -> None:
    run = tmp_path / "run"
    server.runs["run-of-another"] = {}
    lives(train, run, "tracking.trackio={project: p}")
    other, name = server.runs
    assert other == "run-of-another"
    assert name.startswith("run-")
    history = server.runs[name]
    assert {name: history[name] for name in written(run)} == written(run)
    assert history["samples"] == {step: table(text) for step, text in samples(run).items()}
    answer = train("tracking.trackio={project: p}", "train.stop_after=2", more=("--fresh", "--overwrite", "--json"))
    assert json.loads(answer.out)["step"] == 2  # nothing but the answer, whatever the library prints
    *_, fresh = server.runs
    assert fresh != name
    assert list(server.runs[fresh]["train/loss"]) == [1, 2]


@pytest.mark.parametrize(
    ("tracker", "words"),
    [
        ("tracking.wandb={mod: offline}", "tracking.wandb.mod = 'offline': unknown key; known here: project, entity"),
        ("tracking.wandb={mode: later}", "tracking.wandb.mode = 'later': input should be 'online' or 'offline'"),
        ("tracking.trackio={project: 3}", "tracking.trackio.project = 3: input should be a valid string"),
        ("tracking.tensorboard={flush: 3}", "tracking.tensorboard.flush = 3: unknown key; known here: none"),
    ],
)
@pytest.mark.usefixtures("server")
def test_settings_that_a_tracker_does_not_have(train: Train, tmp_path: Path, tracker: str, words: str) -> None:
    answer = train(tracker)
    assert answer.code == 2
    assert words in answer.err
    assert not (tmp_path / "run").exists()


def test_a_library_that_is_not_there(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is computed, and by a dry run too."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    answer = train("tracking.wandb=true", more=("--dry-run",))
    assert answer.code == 2
    assert "tracking.wandb needs the package wandb" in answer.err
    assert "pip install -c constraints.txt -e '.[wandb]'" in answer.err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_a_link(train: Train, tmp_path: Path) -> None:
    """As in the run folder of a stranger: nothing is written or removed at its end; the training goes on."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "events.out.tfevents.1").write_text("mine")
    (tmp_path / "run" / "tracking").mkdir(parents=True)
    (tmp_path / "run" / "tracking" / "tensorboard").symlink_to(tmp_path / "elsewhere")
    answer = train("tracking.tensorboard=true", "train.stop_after=2")
    assert answer.code == 0
    assert "tracking.tensorboard failed" in answer.out
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["events.out.tfevents.1"]
