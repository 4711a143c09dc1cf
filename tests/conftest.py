"""Shared fixtures: a tiny model, a small prepared set, the command line called in this process."""

import ctypes
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import reload
from pathlib import Path

import numpy as np
import pytest
import torch
import typer.main
from device import NAME, TORCH
from hypothesis import HealthCheck, settings

from lost.config import Config
from lost.data.dataset import Dataset
from lost.engine import Engine, registry
from lost.prepare.sources import Sources
from lost.prepare.text import prepare
from lost.utils import machine

# Whoever starts the tests (nohup, a shell's background) may ignore signals, and what they start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

BLAS = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
if sys.platform == "linux":
    # MLX's own BLAS is slow on Linux. PyTorch's stands in for it, as long as it's there before MLX is imported.
    ctypes.CDLL(str(BLAS), mode=ctypes.RTLD_GLOBAL)

if os.environ.get("LOST_TEST_AUTO") == "mlx":  # as on Apple silicon, here and in what tests start
    reload(machine)  # in a worker sitecustomize has replaced what test_backends tests
    registry.on_apple_silicon = lambda: True
    paths = [str(Path(__file__).parent / "auto_is_mlx"), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if sys.platform == "linux":
        os.environ["LD_PRELOAD"] = str(BLAS)  # all compute with one BLAS, to the same bits

MEMORY, ENOUGH = Path("/dev/shm"), 8 << 30
if sys.platform == "linux" and not {"TMPDIR", "PYTEST_DEBUG_TEMPROOT"} & os.environ.keys() and MEMORY.is_dir():
    # Thousands of files are flushed and removed, a tenth of some tests' time on a disk, and few tests are about that.
    held = os.statvfs(MEMORY)
    if held.f_bavail * held.f_frsize > ENOUGH and not held.f_flag & os.ST_NOEXEC:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)

# On a busy machine an example takes long; that says nothing of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return one more than there are cores: more than a quarter of the time tests wait, for others and for clocks."""
    return machine.cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a card where none is tested."""
    if not TORCH.startswith("cuda"):
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"needs a CUDA card, named by {NAME}=cuda"))


_WORDS = "the of and to in rank layer weight channel sparse model token loss step train data with from dense low"


def tiny_config(**sections: dict) -> Config:
    """A model of a few thousand parameters; keyword arguments update its sections."""
    raw: dict = {
        "model": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 19,
            "max_position_embeddings": 64,
        },
        "projection": {"kind": "lost", "rank": 4, "density": 0.2, "align": 1},
        "data": {"seq_len": 8},
        "train": {"batch_size": 4, "micro_batch_size": 2, "compile": False},  # by default it would be on a card
        "optimizer": {"lr": 1e-2, "weight_decay": 0.1},
        "schedule": {"steps": 10, "warmup_steps": 2},
    }
    for section, values in sections.items():
        raw[section] = {**raw.get(section, {}), **values}
    return Config.model_validate(raw)


@pytest.fixture(scope="session")
def config() -> Callable[..., Config]:
    return tiny_config


def some_text(documents: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [
        "\n".join(" ".join(draw.choices(_WORDS.split(), k=12)) for _ in range(draw.randint(3, 9)))
        for _ in range(documents)
    ]


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number, text in enumerate(some_text(60)):
        (folder / f"{number:03d}.txt").write_text(text)
    return folder


@pytest.fixture(scope="session")
def prepared(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare(Sources([text_folder]), out, 320, 0.04)  # little to validate on: most runs do when they end
    return Dataset(out)


def logits_of(engine: Engine, tokens: np.ndarray) -> np.ndarray:
    """Whole logits, by the model that the engine trains."""
    if engine.backend == "torch":
        with torch.no_grad():
            return engine.model.logits(torch.from_numpy(tokens).to(engine.device)).cpu().numpy()  # type: ignore[attr-defined]
    import mlx.core as mx

    return np.array(engine.model(mx.array(tokens)))  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def logits() -> Callable[[Engine, np.ndarray], np.ndarray]:
    return logits_of


FEW = 1 << 9  # tokens by which adapters of a tiny model begin
_built = cache(typer.main.get_command)  # .03 s, which a process pays once, and its tests needn't more often


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Call the command line in this process."""
    from lost.cli.main import main

    monkeypatch.setattr("lost.cli.main.leave", sys.exit)  # whose alarm would end the tests' process later
    monkeypatch.setattr("typer.main.get_command", _built)
    monkeypatch.setattr("lost.training.origin.calibration.TOKENS", FEW)

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["lost", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        printed = capsys.readouterr()
        code = exit_info.value.code
        return Answer(int(code) if code is not None else 0, printed.out, printed.err)

    return call


TINY_YAML = """\
model:
  hidden_size: 32
  intermediate_size: 48
  num_hidden_layers: 2
  num_attention_heads: 4
  max_position_embeddings: 64
projection:
  rank: 8
  density: 0.1
  align: 8
data:
  seq_len: 16
train:
  batch_size: 4
  micro_batch_size: 2
  log_every: 1
  eval_every: 0
  save_every: 10
optimizer:
  lr: 1e-2
schedule:
  steps: 20
  warmup_steps: 2
"""


@pytest.fixture(scope="session")
def tiny_text() -> str:
    return TINY_YAML


@pytest.fixture
def tiny_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_YAML)
    return path
