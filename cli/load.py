"""Loading of a model for the commands that evaluate it or generate with it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.config import ModelConfig
    from lost.engine import Engine


def load_model(path: Path, backend: str, device: str) -> "tuple[Checkpoint, Engine]":
    """Load the weights of a checkpoint, or of a run's newest intact one."""
    from lost.cli.render.output import note
    from lost.engine import create_engine, inference_config
    from lost.training.run_dir import find_checkpoint

    checkpoint, rejected = find_checkpoint(path)
    for reason in rejected:
        note(f"skipped: {reason}")
    engine = create_engine(inference_config(checkpoint.config), backend, device)
    engine.load(checkpoint.parameters())
    return checkpoint, engine


def context_of(model: "ModelConfig", requested: int | None, default: int) -> int:
    """Return the number of tokens that the model reads at once.

    Raises:
        UserError: it exceeds the model's positions.
    """
    from lost.errors import UserError

    positions = model.max_position_embeddings
    if requested and requested > positions:
        raise UserError(
            f"--context {requested}: the model has {positions} positions (max_position_embeddings); expected no more; "
            "lower it, or leave it out"
        )
    return requested or default
