"""The PyTorch engine: one optimizer step, evaluation and generation on one device."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch import devices
from lost.backends.torch.arrays import DTYPES, to_array, to_tensor
from lost.backends.torch.loss import IGNORED, head_loss, head_nll
from lost.backends.torch.model import Cache, LostForCausalLM
from lost.backends.torch.optimizer import Adam
from lost.batches import Batch
from lost.config import Config
from lost.engine import NamedArrays, StepReport, checked, moment_shapes
from lost.parameters import parameter_table
from lost.workers import Alone, Workers


class TorchEngine:
    """A model on a device. Implements `lost.engine.Engine`.

    Args:
        config: the run; its vocabulary known.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        BackendError: the device isn't here.
    """

    backend = "torch"

    def __init__(self, config: Config, device: str = "auto") -> None:
        self._config, self.device = config, devices.resolve(device)
        self._device = torch.device(self.device)
        self.workers: Workers = Alone()
        self._table = parameter_table(config)
        with self._device:
            self.model = LostForCausalLM(config).to(self._device)
        self.compiled = bool(config.train.compile)
        self._trunk = torch.compile(self.model.model) if self.compiled else self.model.model
        self._tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        self._trained = {name: self._tensors[name] for name, row in self._table.items() if row.trained}
        self._optimizer = Adam(config.optimizer, self._trained, self._table)

    def load(self, parameters: NamedArrays) -> None:
        """Take every parameter, cast to the run's `param_dtype`."""
        _fill({name: self._tensors[name] for name in self._table}, parameters)

    def dump(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every parameter; on CPU, views."""
        for name in self._table:
            yield name, to_array(self._tensors[name])

    def load_optimizer_state(self, moments: NamedArrays, step: int) -> None:
        """Take the moments of every trained parameter."""
        if step == 0:
            return
        self._optimizer.load(checked(moments, moment_shapes(self._config)), step)

    def optimizer_state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the moments; on CPU, views."""
        return self._optimizer.state()

    def step(self, micro_batches: Iterable[Batch], predictions: int, lr: float) -> StepReport:
        """Do one optimizer step; gradients of micro-batches add up, nothing waits for the device."""
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self._device)
        for batch in micro_batches:
            tokens, targets = self._on_device(batch)
            states = self._trunk(tokens).flatten(0, 1)
            nll = head_loss(states, self.model.head, targets)
            (nll / predictions).backward()
            total += nll.detach()
        limit = self._config.train.grad_clip or float("inf")
        # Row by row: torch's float32 sum over all of an embedding of 16M entries is off by 1e-3, over a row by 1e-8.
        rows = [torch.linalg.vector_norm(each.grad, dim=-1) for each in self._trained.values() if each.grad is not None]
        wide = torch.float32 if self.device == "mps" else torch.float64  # which Apple's GPUs don't have
        norm = torch.linalg.vector_norm(torch.cat([each.flatten() for each in rows]), dtype=wide)
        if self.device != "cpu" or norm > limit:  # asking an accelerator would wait for it
            torch.nn.utils.clip_grads_with_norm_(self._trained.values(), limit, norm.float())
        self._optimizer.step(lr)
        return StepReport(lambda: (total.item() / predictions, norm.item()))

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> tuple[float, int]:
        """Return (summed nll, predictions), summed in float64."""
        total, count = 0.0, 0
        for batch in batches:
            tokens, targets = self._on_device(batch)
            nll = head_nll(self._trunk(tokens).flatten(0, 1), self.model.head, targets)
            total += nll.cpu().double().sum().item()
            count += batch.predictions
        return total, count

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        tokens = torch.from_numpy(batch.tokens.astype(np.int64))
        targets = tokens[:, 1:].clone()
        if batch.counted is not None:
            targets[~torch.from_numpy(batch.counted)] = IGNORED
        return tokens[:, :-1].to(self._device), targets.flatten().to(self._device)

    @torch.inference_mode()
    def generate(self, prompt: Sequence[int], choose: Callable[[np.ndarray], int], limit: int) -> Iterator[int]:
        """Yield up to `limit` tokens, keys and values of what was read kept."""
        model = self._config.model
        shape = (1, model.key_value_heads, len(prompt) + limit, model.head_dim)
        keys = torch.empty(shape, device=self._device, dtype=DTYPES[self._config.train.dtype])
        caches = [Cache(torch.empty_like(keys), torch.empty_like(keys)) for _ in self.model.model.layers]
        unread, read = list(prompt), 0
        for _ in range(limit):
            tokens = torch.tensor([unread], device=self._device)
            states = self.model.model(tokens, caches, read)[:, -1]
            logits = torch.nn.functional.linear(states, self.model.head.to(states.dtype))
            read += len(unread)
            unread = [choose(to_array(logits[0].float()))]
            yield unread[0]

    def memory(self) -> dict[str, int]:
        """Return the peak memory so far, in bytes; on CUDA also what is in use and what is cached."""
        return devices.memory(self.device)


@torch.no_grad()
def _fill(places: dict[str, Tensor], arrays: NamedArrays) -> None:
    for name, array in checked(arrays, {name: tuple(place.shape) for name, place in places.items()}):
        places[name].copy_(to_tensor(array))
