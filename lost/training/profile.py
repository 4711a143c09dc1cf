"""A trace of a few steps of a run (`lost train --profile`), which changes nothing of what is computed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from lost.engine import StepResult
from lost.storage.nofollow import check_folder
from lost.utils.wording import counted

_FOLDER = "profile"  # in the run folder
_BEFORE = 3  # steps that aren't traced: the first ones compile, choose kernels, fill caches
_STEPS = 3

Tracing = Callable[[Path], AbstractContextManager[Path]]
Aside = Callable[[str], AbstractContextManager[object]]  # what is done in it isn't training time


class Profile:
    """Traces some steps, after the first few of this start. What fails is said, and training goes on.

    Args:
        run: the run folder.
        tracing: the backend's.
        say: told where the trace is, or why there is none.
    """

    def __init__(self, run: Path, tracing: Tracing, say: Callable[[str], None]) -> None:
        self._folder, self._tracing, self._say = run / _FOLDER, tracing, say
        self._begun, self._open = 0, ExitStack()
        self._file: Path | None = None

    def before(self, step: int, aside: Aside) -> None:
        """Begin the trace, if this step is the first in it."""
        self._begun += 1
        if self._begun != _BEFORE + 1:
            return
        try:
            check_folder(self._folder)
            self._folder.mkdir(exist_ok=True)
            with aside("beginning the profile"):
                self._file = self._open.enter_context(self._tracing(self._folder / f"from-step-{step:08d}"))
        except (OSError, RuntimeError) as error:
            self._failed(error)

    def after(self, result: StepResult, aside: Aside) -> None:
        """End the trace, if this step was the last in it."""
        if self._begun == _BEFORE + _STEPS:
            result.wait()
            with aside("writing the profile"):
                self._end(_STEPS)

    def close(self) -> None:
        """End a trace in the midst of which the run ends."""
        if self._begun <= _BEFORE:
            self._say(f"no profile: it begins after {_BEFORE} steps, and there were {self._begun}")
        self._end(self._begun - _BEFORE)

    def _end(self, steps: int) -> None:
        try:
            self._open.close()
            if self._file:
                self._say(f"profile of {counted(steps, 'step')}: {self._file}")
        except (OSError, RuntimeError) as error:
            self._failed(error)
        self._file = None

    def _failed(self, error: Exception) -> None:
        self._file = None
        self._say(f"no profile: {' '.join(str(error).split())}; training goes on")
