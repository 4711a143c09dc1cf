"""Opening of a model for the commands that look at it, evaluate it or generate with it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
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


def open_checkpoint_of(path: Path) -> "Checkpoint":
    """Return the checkpoint that a path or RUN@STEP names, of a run its newest intact one, and show what was skipped.

    Raises:
        CheckpointError: there is none.
        UserError: it is a model of another library, or an export.
    """
    from lost.checkpoint import checkpoint_named, find_checkpoint
    from lost.cli.render.output import note
    from lost.errors import UserError
    from lost.interop.hub.download import as_typed, is_address
    from lost.interop.source import is_folder_of_another

    if is_address(path) or is_folder_of_another(path):
        raise UserError(
            f"{as_typed(path)} is an export, or a model of another library; expected a run or a checkpoint of `lost "
            f"train`; make one of it by `lost convert {as_typed(path)} CHECKPOINT --from hf`"
        )
    checkpoint, rejected = find_checkpoint(checkpoint_named(path))
    for reason in rejected:
        note(f"skipped: {reason}")
    return checkpoint


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
