"""trackio, Hugging Face's local tracker: `trackio show` shows its database, `trackio sync` sends it to a Space."""

import io
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from lost.config.fields import Section
from lost.tracking.retold import Retold


class Settings(Section):
    """Settings under `tracking.trackio`; all of them are trackio's own."""

    project: str = "lost"
    name: str | None = None
    """None: the run folder's."""
    group: str | None = None


class Trackio(Retold[Settings]):
    """A run in trackio's database on this machine, under the folder's name and digits that tell runs apart."""

    name, module, takes = "trackio", "trackio", Settings
    _trackio: Any = None

    def open(self, place: Path, run: str) -> None:
        """Begin with nothing of what an earlier life of this run wrote."""
        project, name = self._settings.project, f"{self._settings.name or self._run.name}-{run}"
        with redirect_stdout(io.StringIO()):  # which the command's answer has for itself
            with suppress(ValueError):  # there is no such project yet
                for each in self._library.Api().runs(project):
                    if each.name == name:
                        each.delete()
            self._trackio = self._library.init(
                project,
                name=name,
                group=self._settings.group,
                config=self._config.model_dump(),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def write(self, step: int, values: dict[str, float], at: float) -> None:
        """Log values."""
        self._trackio.log(values, step=step)

    def write_texts(self, step: int, samples: list[tuple[str, str]], at: float) -> None:
        """Log a table."""
        table = self._library.Table(columns=["prompt", "text"], data=[list(each) for each in samples])
        self._trackio.log({"samples": table}, step=step)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._trackio:
            with redirect_stdout(io.StringIO()):
                self._library.finish()  # else it says goodbye once more at exit
