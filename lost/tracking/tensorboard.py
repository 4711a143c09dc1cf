"""TensorBoard's files, by tensorboardX: `tensorboard --logdir RUN` shows them."""

from pathlib import Path
from textwrap import indent
from typing import Any

from lost.config.fields import Section
from lost.storage.nofollow import remove
from lost.tracking.retold import Retold


class TensorBoard(Retold[Section]):
    """An event file in the run folder's `tracking/tensorboard`. It has no settings."""

    name, module, takes = "tensorboard", "tensorboardX", Section
    _writer: Any = None

    def open(self, place: Path, run: str) -> None:
        """Begin another file. A TensorBoard that shows the one before is told that nothing of that holds."""
        for file in place.glob("events.out.tfevents.*"):
            remove(file)
        self._writer = self._library.SummaryWriter(str(place), purge_step=0, flush_secs=30)

    def write(self, step: int, values: dict[str, float], at: float) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, at)

    def write_texts(self, step: int, samples: list[tuple[str, str]], at: float) -> None:
        """Write texts, as blocks of code: TensorBoard takes text for Markdown."""
        for number, (prompt, text) in enumerate(samples, 1):
            self._writer.add_text(f"samples/{number}", indent(prompt + text, "    ", lambda line: True), step, at)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer:
            self._writer.close()
