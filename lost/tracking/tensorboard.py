"""TensorBoard's files, by tensorboardX: `tensorboard --logdir RUN` shows them."""

from pathlib import Path
from typing import Any

from lost.config import Config
from lost.config.fields import Section
from lost.storage.nofollow import remove
from lost.tracking.retold import Retold, settings
from lost.utils.extras import need


class TensorBoard(Retold):
    """An event file in the run folder's `tracking/tensorboard`. It has no settings.

    Args:
        folder: the run folder.
        config: of the run.
        values: the tracker's settings.
    """

    name = "tensorboard"

    def __init__(self, folder: Path, config: Config, values: dict[str, Any]) -> None:
        super().__init__(folder)
        settings(Section, self.name, values)
        self._library = need("tensorboardX", "tensorboard", "tracking.tensorboard")
        self._writer: Any = None

    def open(self, place: Path, run: str) -> None:
        """Begin another file. A TensorBoard that shows the one before is told that nothing of that holds."""
        for file in place.glob("events.out.tfevents.*"):
            remove(file)
        self._writer = self._library.SummaryWriter(str(place), purge_step=0, flush_secs=30)

    def write(self, step: int, values: dict[str, float], at: float) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, at)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer:
            self._writer.close()
