"""What is converted: a verified checkpoint, and the type that its weights are to have."""

from typing import TYPE_CHECKING

from lost.cli.converting.request import Request

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.config import DType


def checkpoint_of(request: Request) -> "Checkpoint":
    """Return the checkpoint that SRC names, of a run its newest intact one.

    Raises:
        CheckpointError: there is none.
        UserError: it is a model of another library, or an export.
    """
    from lost.checkpoint import find_checkpoint
    from lost.checkpoint.store import checkpoint_named
    from lost.cli.render.output import note
    from lost.errors import UserError
    from lost.interop.hub.download import as_typed, is_address
    from lost.interop.source import is_folder_of_another

    if is_address(request.source) or is_folder_of_another(request.source):
        raise UserError(
            f"{as_typed(request.source)} is an export, or a model of another library; expected a run or a checkpoint "
            "of `lost train`; to make a checkpoint of it, add --from hf"
        )
    checkpoint, rejected = find_checkpoint(checkpoint_named(request.source))
    for reason in rejected:
        note(f"skipped: {reason}")
    return checkpoint


def own_type(request: Request) -> "DType | None":
    """Return a type that our checkpoints and folders have; the others are GGUF's.

    Raises:
        UserError: it is one of those.
    """
    dtype = request.dtype
    if dtype == "float16" or dtype == "q8_0":
        from lost.errors import UserError

        raise UserError(
            f"--dtype {dtype} with --to {request.to}: expected float32 or bfloat16, or --to gguf; choose one"
        )
    return dtype
