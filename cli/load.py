"""Opening of a model for the commands that look at it, evaluate it or generate with it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lost.config import ModelConfig
    from lost.engine import Engine
    from lost.interop.source import Source


def open_model(path: Path) -> "Source":
    """Open a checkpoint, a run's newest intact one, or another library's folder, and show remarks on it.

    Raises:
        UserError: a launcher started several processes, each of which would do so.
    """
    from lost.cli.render.output import note
    from lost.distributed.launcher import check_alone
    from lost.interop.source import open_source

    check_alone()
    source = open_source(path)
    for remark in source.remarks:
        note(remark)
    return source


def load_model(path: Path, backend: str, device: str) -> "tuple[Source, Engine]":
    """Open a model, and load its weights."""
    source = open_model(path)
    return source, load_weights(source, backend, device)


def load_weights(source: "Source", backend: str, device: str) -> "Engine":
    """Load a model's weights: last of all, as it may take minutes."""
    from lost.engine import create_engine, inference_config

    engine = create_engine(inference_config(source.config), backend, device)
    engine.load(source.parameters())
    return engine


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
