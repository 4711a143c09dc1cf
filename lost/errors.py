"""Errors a user can meet.

Each message has three parts: what happened with the value received, what was expected, what to do. The command line
prints the message alone and leaves with `exit_code`; a traceback is shown only with `--debug`.
"""

import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

_SHORT = re.compile(
    r"out of memory|insufficient memory|(can't|unable to|attempting to) allocate|ALLOC_FAILED|Failed to CUDA [cm]alloc",
    re.IGNORECASE,
)


TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h, which schedulers know: the same command may succeed later


class LostError(Exception):
    """Something failed that a message can explain.

    Attributes:
        exit_code: of the command.
        known: fields of the command's answer that are known all the same; with --json they stand beside the error.
    """

    exit_code = 1
    known: Mapping[str, Any] = MappingProxyType({})


class UserError(LostError):
    """The user's input, or the user's machine, must change before this can work."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration that can't be trained."""


class DataError(UserError):
    """Text, tokens or a tokenizer that can't be used."""


class UnreachableError(UserError):
    """Text that could not be read just now, and may be later."""


class NetworkError(UnreachableError):
    """A hub that doesn't answer."""

    exit_code = TRY_AGAIN


class CheckpointError(UserError):
    """A checkpoint that is damaged, foreign or missing."""


class StorageError(UserError):
    """The disk refused a write: full, read-only, or out of quota."""


class BackendError(UserError):
    """A backend or device that this machine doesn't have."""


class OutOfMemoryError(UserError):
    """A device, or the machine, without memory for what was to be computed.

    Args:
        error: what Python or a framework raised.
        remedy: what to do.
    """

    def __init__(
        self,
        error: BaseException,
        remedy: str = "compute less at once (a smaller batch or context, fewer threads), or end what else uses it",
    ) -> None:
        reason = " ".join(str(error).partition(" If reserved but unallocated")[0].split()) or type(error).__name__
        super().__init__(f"out of memory: {reason.rstrip('.')}; expected what is held at once to fit; {remedy}")

    @staticmethod
    def caused(error: BaseException) -> bool:
        """Say whether memory that ran out is what an error of Python, PyTorch or MLX tells of."""
        return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_SHORT.search(str(error))))


class GradientMemoryError(OutOfMemoryError):
    """Memory that ran out in a step before it changed anything: with fewer sequences at once it can be taken again.

    Args:
        error: what Python or a framework raised.
    """

    @staticmethod
    @contextmanager
    def raised() -> Iterator[None]:
        """Raise this error in place of a framework's, for what changes neither weights nor moments."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not OutOfMemoryError.caused(error):
                raise
            raise GradientMemoryError(error) from error


class GpuStoppedError(UserError):
    """A computation that macOS ended: the GPU took too long, or the display waited for it.

    Args:
        error: what MLX raised.
        less: what makes each computation shorter; None: of a training, which the same command resumes.
    """

    def __init__(self, error: BaseException, less: str | None = None) -> None:
        saved = "" if less else ". What was saved before is intact: the same command resumes from it"
        super().__init__(
            f"macOS stopped a computation on the GPU: {' '.join(str(error).split()).rstrip('.')}; expected it to end "
            f"by itself; try {less or 'a smaller train.micro_batch_size'}, AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1 in the "
            f"environment, or the display switched off, with caffeinate -i before the command{saved}"
        )

    @staticmethod
    def caused(error: BaseException) -> bool:
        """Say whether this is what an error of MLX tells of; where memory ran out, `OutOfMemoryError` says so too."""
        return isinstance(error, RuntimeError) and str(error).startswith("[METAL] Command buffer")


class CompilerError(UserError):
    """PyTorch's compiler, which failed, or keeps code of earlier runs that is damaged.

    Args:
        error: what PyTorch raised.
    """

    def __init__(self, error: BaseException) -> None:
        _, _, raised = str(error).partition("raised:\n")
        reason = (raised or str(error)).strip().partition("\n\n")[0].replace("\n", ": ")
        kept = os.environ.get("TORCHINDUCTOR_CACHE_DIR")  # which PyTorch sets where nobody has
        super().__init__(
            f"PyTorch's compiler failed: {reason:.400}; expected it to work, and what it keeps of earlier runs"
            f"{f' in {kept}' if kept else ''} to be whole; remove that folder, which it fills again, or train without "
            "it: --set train.compile=false, and with another optimizer than adamw8bit, which compiles its updates"
        )

    @staticmethod
    def caused(error: BaseException) -> bool:
        """Say whether this is what an error of PyTorch tells of."""
        return type(error).__module__ in ("torch._dynamo.exc", "torch._inductor.exc")


class MissingPackageError(UserError):
    """An optional package that isn't installed."""


class ExportError(LostError):
    """An exported folder that another program doesn't open, or reads as another model."""


class OutputError(LostError):
    """An answer that could not be written to standard output."""


class RunBusyError(UserError):
    """Another job writes to the run folder."""

    exit_code = TRY_AGAIN


class DivergedError(LostError):
    """The loss stopped being a finite number."""


class WorkerLostError(LostError):
    """One of several processes that train together is gone."""


class InterruptedAtOnceError(BaseException):
    """A signal that isn't to be waited for. No `Exception`: nothing that tries again or hides errors may catch it."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + number
