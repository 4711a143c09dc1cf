"""Weights & Biases: by its server, or offline into a folder that `wandb sync` sends later."""

from pathlib import Path
from typing import Any, Literal

from lost.config.fields import Section
from lost.storage.nofollow import remove
from lost.tracking.retold import Retold

_SAVE = "checkpoint/"  # of the names of a save's values


class Settings(Section):
    """Settings under `tracking.wandb`; all of them are wandb's own."""

    project: str = "lost"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    tags: list[str] = []  # noqa: RUF012
    notes: str | None = None
    mode: Literal["online", "offline"] | None = None
    """None: as WANDB_MODE says, else online."""


class Wandb(Retold[Settings]):
    """A run of wandb, which goes on as the same one when the training is resumed."""

    name, module, takes = "wandb", "wandb", Settings
    forgets = False  # its server takes no step twice
    _wandb: Any = None
    _known = 0  # what is told of steps before this one, the server has
    _exit_code = 0

    def open(self, place: Path, run: str) -> None:
        """Begin, or go on. What an earlier life wrote to be sent later is removed, as all of it is written again."""
        for folder in (place / "wandb").glob("offline-run-*"):
            remove(folder)
        wanted = self._settings.model_dump(exclude={"name", "tags"})
        self._wandb = self._library.init(
            **wanted,
            name=self._settings.name or self._run.name,
            tags=self._settings.tags,
            id=run,
            resume="allow",
            dir=str(place),
            config=self._config.model_dump(),
            settings=self._library.Settings(silent=True, console="off"),
        )
        self._known = self._wandb.step

    def begin(self, step: int) -> None:
        """Begin after a step; nothing that is told from then on was told before."""
        super().begin(step)
        self._known = 0

    def write(self, step: int, values: dict[str, float], at: float) -> None:
        """Log values; those of steps that the server has already are left out, as it takes none of an earlier step.

        A save goes on beside the training and is told of when that is steps further: it's logged there, with its step.
        """
        now = self._wandb.step
        if step >= self._known and any(name.startswith(_SAVE) for name in values):
            values, step = {**values, f"{_SAVE}step": step}, max(step, now)
        if step >= now:
            self._wandb.log(values, step=step)

    def write_texts(self, step: int, samples: list[tuple[str, str]], at: float) -> None:
        """Log a table."""
        if step >= self._wandb.step:
            table = self._library.Table(columns=["prompt", "text"], data=[list(each) for each in samples])
            self._wandb.log({"samples": table}, step=step)

    def failed(self) -> None:
        """Have the run called failed."""
        self._exit_code = 1

    def close(self) -> None:
        """Finish: sends what is still to be sent."""
        if self._wandb:
            self._wandb.finish(exit_code=self._exit_code)
