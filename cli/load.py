"""From a path on the command line to a model that can be asked."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.engine import Engine


def load_model(path: Path, backend: str, device: str) -> "tuple[Checkpoint, Engine]":
    """Load the weights of a checkpoint, or of a run's newest whole one."""
    from lost.cli.output import note
    from lost.engine import create_engine
    from lost.run import find_checkpoint

    checkpoint, rejected = find_checkpoint(path)
    for reason in rejected:
        note(f"passed over: {reason}")
    engine = create_engine(checkpoint.config, backend, device)
    engine.load(checkpoint.parameters())
    return checkpoint, engine
