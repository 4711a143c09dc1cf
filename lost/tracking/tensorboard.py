"""TensorBoard's files, by tensorboardX: `tensorboard --logdir RUN` shows them."""

import time
from pathlib import Path
from textwrap import indent
from typing import Any

from lost.config.fields import Section
from lost.storage.nofollow import remove
from lost.tracking.retold import Retold

_FLUSH = 30.0  # seconds: whoever looks sees what was written before


class TensorBoard(Retold[Section]):
    """An event file in the run folder's `tracking/tensorboard`. It has no settings.

    tensorboardX's SummaryWriter writes in a thread: where the disk refuses, that ends, and whoever writes on waits for
    it forever. The part of it that writes raises here instead.
    """

    name, module, takes = "tensorboard", "tensorboardX", Section
    _events: Any = None
    _flushed = 0.0

    def open(self, place: Path, run: str) -> None:
        """Begin another file. A TensorBoard that shows the one before is told that nothing of that holds."""
        for file in place.glob("events.out.tfevents.*"):
            remove(file)
        self._events = self._library.event_file_writer.EventsWriter(str(place / "events"))
        log = self._library.proto.event_pb2.SessionLog
        self._put(0, time.time(), session_log=log(status=log.START))

    def write(self, step: int, values: dict[str, float], at: float) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._put(step, at, summary=self._library.summary.scalar(name, value))

    def write_texts(self, step: int, samples: list[tuple[str, str]], at: float) -> None:
        """Write texts, as blocks of code: TensorBoard takes text for Markdown."""
        for number, (prompt, text) in enumerate(samples, 1):
            block = indent(prompt + text, "    ", lambda line: True)
            self._put(step, at, summary=self._library.summary.text(f"samples/{number}", block))

    def _put(self, step: int, at: float, **content: Any) -> None:
        event = self._library.proto.event_pb2.Event(step=step, wall_time=at, **content)
        self._events.write_event(event)
        if time.monotonic() - self._flushed > _FLUSH:
            self._events.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is still in memory."""
        if self._events:
            self._events.close()
