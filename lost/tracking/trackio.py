"""trackio, Hugging Face's local tracker: `trackio show` shows its database, `trackio sync` sends it to a Space."""

import io
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from lost.config import Config
from lost.config.fields import Section
from lost.tracking.retold import Retold, settings
from lost.utils.extras import need


class Settings(Section):
    """Settings under `tracking.trackio`; all of them are trackio's own."""

    project: str = "lost"
    name: str | None = None
    """None: the run folder's."""
    group: str | None = None


class Trackio(Retold):
    """A run in trackio's database on this machine, under the folder's name and digits that tell runs apart.

    Args:
        folder: the run folder.
        config: of the run.
        values: the tracker's settings.
    """

    name = "trackio"

    def __init__(self, folder: Path, config: Config, values: dict[str, Any]) -> None:
        super().__init__(folder)
        self._settings = settings(Settings, self.name, values)
        self._library = need("trackio", "trackio", "tracking.trackio")
        self._config, self._name = config.model_dump(), self._settings.name or folder.name
        self._trackio: Any = None

    def open(self, place: Path, run: str) -> None:
        """Begin with nothing of what an earlier life of this run wrote."""
        project, name = self._settings.project, f"{self._name}-{run}"
        with redirect_stdout(io.StringIO()):  # which the command's answer has for itself
            with suppress(ValueError):  # there is no such project yet
                for each in self._library.Api().runs(project):
                    if each.name == name:
                        each.delete()
            self._trackio = self._library.init(
                project,
                name=name,
                group=self._settings.group,
                config=self._config,
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def write(self, step: int, values: dict[str, float], at: float) -> None:
        """Log values."""
        self._trackio.log(values, step=step)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._trackio:
            with redirect_stdout(io.StringIO()):
                self._library.finish()  # else it says goodbye once more at exit
