"""What a text shows of a model: moments of layers' inputs, squared gradients, and what it says of the next token."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch.arrays import to_array
from lost.backends.torch.engine import TorchEngine
from lost.data.batch import Batch
from lost.engine import Engine
from lost.method.calibration import record_inputs


def input_moments(engine: Engine, batches: Iterable[Batch], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the mean of x x^T over the inputs x (in,) of each named projection, (in, in) float64."""
    assert isinstance(engine, TorchEngine)
    layers = {name: engine.model.get_submodule(name) for name in names}
    return record_inputs(layers, lambda: engine.evaluate(batches), _Sum)


def weight_gradients(engine: Engine, batches: Iterable[Batch], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the gradient of the mean loss for the weight of each named dense projection, (out, in) float32."""
    assert isinstance(engine, TorchEngine)
    engine.model.requires_grad_(False)
    weights = [engine.model.get_parameter(f"{name}.weight").requires_grad_() for name in names]
    totals, count = [torch.zeros_like(each, dtype=torch.float32) for each in weights], 0
    for batch in batches:
        found = torch.autograd.grad(engine.model(*engine._on_device(batch)), weights)
        torch._foreach_add_(totals, [each.float() for each in found])
        count += batch.predictions
    return {name: to_array(each) / count for name, each in zip(names, totals, strict=True)}


def squared_gradients(engine: Engine, batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Return, for each trained parameter, the mean over batches of their mean loss's squared gradient, float32."""
    assert isinstance(engine, TorchEngine)
    parameters = {name: each for name, each in engine.model.named_parameters() if each.requires_grad}
    totals = {name: torch.zeros_like(each, dtype=torch.float32) for name, each in parameters.items()}
    for number, batch in enumerate(batches, 1):
        engine.model.zero_grad(set_to_none=True)
        (engine.model(*engine._on_device(batch)) / batch.predictions).backward()
        for name, each in parameters.items():
            if each.grad is not None:  # moves the mean
                totals[name] += (each.grad.float().square() - totals[name]) / number
    engine.model.zero_grad(set_to_none=True)
    return {name: to_array(each) for name, each in totals.items()}


@torch.no_grad()
def log_probabilities(engine: Engine, tokens: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of entries (b, s, n) after each of tokens (b, s), float32."""
    assert isinstance(engine, TorchEngine)
    logits = engine.model.logits(torch.from_numpy(tokens).to(engine.device).long()).float()
    scores = logits.sub_(logits.logsumexp(-1, keepdim=True))  # no second array of all of them
    return to_array(scores.gather(-1, torch.from_numpy(entries).to(scores.device).long()))


class _Sum:
    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._rows = 0

    def add(self, x: Tensor) -> None:
        rows = x.detach().flatten(0, -2).float()
        product = rows.T @ rows
        product = product if product.device.type == "mps" else product.double()  # Apple's GPUs have no float64
        self._total = product if self._total is None else self._total.add_(product)
        self._rows += len(rows)

    def mean(self) -> np.ndarray:
        assert self._total is not None
        return to_array(self._total).astype(np.float64) / self._rows
