"""A capture of what MLX does on Metal, for Xcode. Untested: no Mac was there."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import mlx.core as mx

from lost.errors import BackendError
from lost.storage.nofollow import remove

_ALLOWED = "MTL_CAPTURE_ENABLED"


def tracing(device: str) -> Callable[[Path], AbstractContextManager[Path]]:
    """Return what captures; given a path without a suffix, it yields the folder that is written meanwhile.

    Raises:
        BackendError: the device isn't Metal's, or Metal isn't allowed to.
    """
    if device == "cpu":
        raise BackendError(
            "--profile: MLX has no trace of a CPU, only Metal's capture; expected a Mac's GPU; leave --profile out, or "
            "profile with --backend torch"
        )
    if os.environ.get(_ALLOWED) != "1":
        raise BackendError(
            f"--profile: Metal captures where {_ALLOWED} is 1 in the environment from the start, and it is "
            f"{os.environ.get(_ALLOWED)!r}; put {_ALLOWED}=1 before the command"
        )

    @contextmanager
    def trace(path: Path) -> Iterator[Path]:
        file = path.with_suffix(".gputrace")
        remove(file)  # Metal writes over nothing
        mx.metal.start_capture(str(file))
        try:
            yield file
        finally:
            mx.metal.stop_capture()

    return trace
