"""From a path on the command line to a model that can be asked."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.config import ModelConfig
    from lost.engine import Engine


def load_model(path: Path, backend: str, device: str) -> "tuple[Checkpoint, Engine]":
    """Load the weights of a checkpoint, or of a run's newest whole one."""
    from lost.cli.render.output import note
    from lost.engine import create_engine, inference_config
    from lost.training.run_dir import find_checkpoint

    checkpoint, rejected = find_checkpoint(path)
    for reason in rejected:
        note(f"skipped: {reason}")
    engine = create_engine(inference_config(checkpoint.config), backend, device)
    engine.load(checkpoint.parameters())
    return checkpoint, engine


def context_of(model: "ModelConfig", asked: int | None, default: int) -> int:
    """Return how many tokens the model is to read at once.

    Raises:
        UserError: more than it has positions for.
    """
    from lost.errors import UserError

    positions = model.max_position_embeddings
    if asked and asked > positions:
        raise UserError(
            f"--context {asked}: the model has {positions} positions (max_position_embeddings); expected no more; "
            "lower it, or leave it out"
        )
    return asked or default
