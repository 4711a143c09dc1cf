"""An extension as a user would write it, in one file: one of each thing that can be registered, for both backends."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from lost.backends.mlx.layers import Layer as MlxLayer
from lost.backends.torch.arrays import to_array, to_tensor
from lost.backends.torch.layers import Layer as TorchLayer
from lost.config import Config, ScheduleConfig
from lost.optim import Optimizer
from lost.prepare.reading import Part, Reader
from lost.projections import Projection, Tensor
from lost.storage.unpack import opened
from lost.tokenizer import Tokenizer
from lost.tracking import Tracker
from lost.utils.randomness import normal


class Scaled(Projection):
    """y = scale * (W x), one number a layer beside its weight."""

    layers = {"torch": f"{__name__}:TorchScaled", "mlx": f"{__name__}:MlxScaled"}  # noqa: RUF012

    def _tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((self.out_features, self.in_features)), "scale": Tensor((1,))}

    def _initial(self, seed: int, std: float) -> dict[str, np.ndarray]:
        weight = normal(seed, f"{self.name}.weight", (self.out_features, self.in_features), std)
        return {"weight": weight, "scale": np.ones(1)}

    def _forward(self, x: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
        return x @ self.merged(values).T

    def merged(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        return values["scale"] * values["weight"]

    def saved_per_token(self) -> int:
        return self.out_features


class TorchScaled(TorchLayer):
    def narrow(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x @ (self.scale * self.weight).to(x.dtype).T,)

    def _widen(self, *parts: torch.Tensor) -> torch.Tensor:
        return parts[0]


class MlxScaled(MlxLayer):
    opens = ("weight", "scale")

    def narrow(self, x: mx.array) -> tuple[mx.array, ...]:
        return (x @ (self["scale"] * self.weight).astype(x.dtype).T,)

    def _widen(self, *parts: mx.array) -> mx.array:
        return parts[0]


class Momentum(Optimizer):
    """SGD with momentum: the first of betas."""

    arrays = ("momentum",)
    reads = frozenset({"betas"})
    updates = {"torch": f"{__name__}:TorchMomentum", "mlx": f"{__name__}:MlxMomentum"}  # noqa: RUF012

    def update(self, row: Any, weight: Any, gradient: Any, state: Any, lr: float, number: int) -> np.ndarray:
        state["momentum"][...] = self.settings.betas[0] * state["momentum"] + gradient
        return weight - lr * state["momentum"]


class TorchMomentum:
    def __init__(self, settings: Any, tensors: Mapping[str, torch.Tensor], table: Any, rows: Any) -> None:
        self._beta, self._tensors, self._begun = settings.betas[0], tensors, False
        self._kept = {name: torch.zeros_like(each) for name, each in tensors.items()}

    def step(self, lr: float, skip: torch.Tensor) -> None:
        self._begun = True
        for name, each in self._tensors.items():
            if not skip:
                self._kept[name].mul_(self._beta).add_(each.grad)  # type: ignore[arg-type]
                each.data.sub_(lr * self._kept[name])

    def state(self) -> Iterator[tuple[str, np.ndarray]]:
        yield from ((f"{name}.momentum", to_array(each)) for name, each in self._kept.items() if self._begun)

    def load(self, arrays: Iterator[tuple[str, np.ndarray]], updates: int) -> None:
        self._begun = True
        for name, array in arrays:
            self._kept[name.rpartition(".")[0]].copy_(to_tensor(array))


class MlxMomentum:
    compiles = False

    def __init__(self, settings: Any, parameters: dict[str, mx.array], table: Any) -> None:
        self._beta, self._kept = settings.betas[0], {name: mx.zeros_like(each) for name, each in parameters.items()}

    def step(self, lr: mx.array, parameters: Any, gradients: Any) -> dict[str, mx.array]:
        self._kept = {name: self._beta * each + gradients[name] for name, each in self._kept.items()}
        return {name: parameters[name] - lr * each for name, each in self._kept.items()}

    def state(self) -> Iterator[tuple[str, mx.array]]:
        yield from ((f"{name}.momentum", each) for name, each in self._kept.items())

    def load(self, arrays: Mapping[str, mx.array], updates: int) -> None:
        self._kept = {name: arrays[f"{name}.momentum"] for name in self._kept}

    def held(self) -> object:
        return list(self._kept.values())


def halving(schedule: ScheduleConfig, step: int) -> float:
    """A schedule: half the rate after every step."""
    return 0.5 ** (step - 1)


class Letters(Tokenizer):
    """A tokenizer: every byte is a token, and 256 ends a text. Its file says nothing."""

    FILE = "tokenizer.letters"
    end_of_text, vocab_size = 256, 257
    files: Mapping[str, bytes] = {FILE: b""}

    @classmethod
    def load(cls, file: Path, content: bytes, end_of_text: str | None) -> "Letters":
        return cls()

    @property
    def fingerprint(self) -> str:
        return "letters"

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(id for id in ids if id < 256).decode(errors="replace")

    def _encode(self, texts: Iterable[str], special_tokens: bool) -> Iterable[list[int]]:
        return [list(text.encode()) for text in texts]


class Verses(Reader):
    """A format: paragraphs are documents."""

    suffixes = (".verses",)

    def documents(self, path: Path, text_key: str, part: Part) -> Iterator[str]:
        with opened(path) as file:
            yield from file.read().decode().split("\n\n")


class Diary(Tracker):
    """A tracker: one line an event, in the file that its settings name."""

    def __init__(self, folder: Path, config: Config, settings: dict[str, Any]) -> None:
        self._path = folder / settings["file"]

    def _note(self, text: str) -> None:
        with self._path.open("a") as file:
            file.write(text + "\n")

    def begin(self, step: int) -> None:
        self._note(f"begin {step}")

    def step(self, row: dict[str, Any]) -> None:
        self._note(f"step {row['step']}")

    def validation(self, row: dict[str, Any]) -> None:
        self._note(f"validation {row['step']}")

    def checkpoint(self, row: dict[str, Any]) -> None:
        self._note(f"checkpoint {row['checkpoint']}")

    def close(self) -> None:
        self._note("close")
