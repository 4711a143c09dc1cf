"""Run folders that no training made: what a law or a search needs of them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lost.checkpoint import checkpoint_path
from lost.checkpoint.state import TrainState
from lost.config import Config
from lost.model.load import dump
from lost.storage.files import sealed_json


def make_run(
    folder: Path, config: Config, losses: dict[int, float], data: str = "text", speed: float = 1e3, **progress: Any
) -> Path:
    """Write a run with these validation losses, by step; `speed` is in tokens a second."""
    last = checkpoint_path(folder / "checkpoints", max(losses))
    last.mkdir(parents=True)
    state = TrainState(step=max(losses), data=data, **progress)
    manifest = {"format": 1, **asdict(state), "tokenizer": "", "files": {}}
    (last / "manifest.json").write_bytes(sealed_json({**manifest, "config": config.model_dump(mode="json")}))
    (folder / "config.yaml").write_text(dump(config))
    rows = [{"step": step, "validation_loss": loss, "bits_per_byte": None} for step, loss in losses.items()]
    reported = {"step": max(losses), "loss": 1.0, "tokens_per_second": speed, "memory_bytes": 1}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [reported, *rows]))
    return folder
