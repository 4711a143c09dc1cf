"""Adaptations of small models, as a user begins them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from adaptations import RANK

from lost.data.dataset import Dataset
from lost.engine import create_engine
from lost.model.load import dump, load_config
from lost.tracking import Tracker
from lost.training.trainer import train


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory, prepared: Dataset, tiny_text: str) -> dict[str, Path]:
    """Runs of two steps: a dense one, one whose head is its embedding and that has norms and biases, two with LOST."""
    folder, runs = tmp_path_factory.mktemp("bases"), {}
    (folder / "tiny.yaml").write_text(tiny_text)
    richer = ["model.use_qk_norm=true", "model.attention_bias=qkv", "model.tie_word_embeddings=true"]
    for name, sets in {
        "dense": ["projection.kind=dense"],
        "rich": ["projection.kind=dense", "model.num_key_value_heads=2", *richer],
        "wide": ["projection.kind=dense", "model.hidden_size=64", "model.intermediate_size=128"],
        "lost": ["projection.kind=lost"],
        "mixed": ["projection.kind=dense", "projection.overrides={'*.mlp.*': {kind: lost, rank: 8}}"],
    }.items():
        words = [*sets, "schedule.steps=2", "train.log_every=0", f"data.path={prepared.path}", "model.vocab_size=320"]
        config = load_config(folder / "tiny.yaml", words)
        runs[name] = folder / name
        runs[name].mkdir()
        (runs[name] / "config.yaml").write_text(dump(config))
        train(config, runs[name], prepared, create_engine(config, "torch", "cpu"), Tracker())
    return runs


@pytest.fixture
def adapt(lost: Callable, bases: dict[str, Path], prepared: Dataset, tmp_path: Path) -> Callable[..., Path]:
    """Begin or go on with an adaptation; returns its folder."""

    def call(kind: str, out: str, stop: int, *sets: str, base: str = "dense", backend: str = "torch") -> Path:
        words = (f"projection.kind={kind}", f"projection.rank={RANK}", "schedule.steps=9", f"train.stop_after={stop}")
        given = [
            word for each in (*words, "train.save_every=1", "train.keep_last=9", *sets) for word in ("--set", each)
        ]
        answer = lost("train", "--init-from", bases[base], "--data", prepared.path, "--out", tmp_path / out,
                      "--backend", backend, "--device", "cpu", *given)  # fmt: skip
        assert answer.code == 0, answer.err
        return tmp_path / out

    return call
