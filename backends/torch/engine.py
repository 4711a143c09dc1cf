"""The PyTorch engine: one optimizer step, evaluation and generation, on one device or one of many under torchrun."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lost.backends.torch import devices
from lost.backends.torch.arrays import DTYPES, arriving, to_array, to_tensor
from lost.backends.torch.distillation.teacher import Teacher, likeliest, taught
from lost.backends.torch.distributed.group import TorchGroup, worker_errors
from lost.backends.torch.distributed.single_device import SingleDevice
from lost.backends.torch.kernels.loss import IGNORED
from lost.backends.torch.model import Cache
from lost.backends.torch.optim.base import Update
from lost.backends.torch.optim.skip_step import DeviceSkipRule
from lost.config import Config
from lost.data.batch import Batch, SoftTargets, check_tokens, packed, with_last
from lost.distributed.group import SingleProcess, Workers
from lost.engine import StepResult
from lost.engine.registry import implementation
from lost.errors import GradientMemoryError
from lost.model.parameters import index_limits, parameter_table, shapes_of, vocabulary
from lost.optim import optimizer_of, state_shapes
from lost.optim.gradients.skip_step import worst
from lost.planning.room import fits_whole
from lost.storage.arrays import NamedArrays, check_arrays

if TYPE_CHECKING:
    from lost.backends.torch.distributed.sharded import Sharded


class TorchEngine:
    """A model on a device, or one worker's part of it. Implements `lost.engine.Engine`.

    Making one sets `train.matmul_precision` on CUDA, and with `train.deterministic` deterministic algorithms, for the
    whole process.

    Args:
        config: the run; its vocabulary known.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        workers: what `join` returned, where several processes train together.

    Raises:
        BackendError: the device isn't here, or isn't deterministic.
        ConfigError: the workers can't share the model as the configuration says.
    """

    backend = "torch"

    def __init__(self, config: Config, device: str = "auto", workers: Workers | None = None) -> None:
        self._config, self.device = config, devices.resolve(device)
        self._device = torch.device(self.device)
        if config.train.deterministic:
            devices.be_deterministic(self.device)
        devices.set_matmul_precision(self.device, config.train.matmul_precision)
        self.workers = workers or SingleProcess()
        self._table, self._entries = parameter_table(config), vocabulary(config)
        self._layout: SingleDevice | Sharded = SingleDevice()
        if isinstance(self.workers, TorchGroup):
            from lost.backends.torch.distributed import sharded  # here: its FSDP takes a second to import

            room = devices.capacity(self.device)
            # Free memory differs between devices, and all workers must gather and reduce alike.
            fits = config.teacher.path is None and fits_whole(config, self.device, room, self.workers.world_size)
            whole_steps = not self.workers.any(not fits)
            self._layout = sharded.Sharded(config, self.workers, self._device, whole_steps)
        self.yields_views = self.device == "cpu"
        self.compiled = devices.compiles(self.device) if config.train.compile is None else config.train.compile
        self.model = self._layout.build(config, self._device, self.compiled)
        self._parameters = dict(self.model.named_parameters())
        # Plain tensors on the local part of the parameters' memory: the optimizer knows nothing of sharding.
        tensors = self._parameters | dict(self.model.named_buffers())
        self._held = {name: self._layout.local_tensor(tensor) for name, tensor in tensors.items()}
        self._trained = {name: self._held[name] for name, row in self._table.items() if row.trained}
        self._teacher: Teacher | None = None
        self._wide = torch.float32 if self.device == "mps" else torch.float64  # which Apple's GPUs don't have
        self.guard = DeviceSkipRule(config.train, self._device, self._wide)
        self._optimizer: Update = implementation(
            "optimizer.name", config.optimizer.name, optimizer_of(config).updates, self.backend
        )(config.optimizer, self._trained, self._table, self._layout)

    @property
    def threads(self) -> int | None:
        """PyTorch's threads on a CPU."""
        return torch.get_num_threads() if self.device == "cpu" else None

    @property
    def first_rows(self) -> Mapping[str, int]:
        """Where the rows held here of an array begin."""
        rows, arrays = self._layout.first_rows, optimizer_of(self._config).arrays
        return {**rows, **{f"{name}.{array}": first for name, first in rows.items() for array in arrays}}

    def load(self, parameters: NamedArrays) -> None:
        """Take every parameter, cast to the type that it is stored in; the peak of memory is from here on."""
        devices.forget_peak(self.device)
        with torch.no_grad():
            gathered = self._layout.gather(parameters)
            for name, array in check_arrays(gathered, shapes_of(self._table), index_limits(self._table)):
                self._held[name].copy_(to_tensor(self._layout.local_rows(name, array)))

    def teach(self, teacher: Config, parameters: NamedArrays) -> None:
        """Take a teacher, whole on this device."""
        self._teacher = Teacher(teacher, parameters, self._device, self.compiled)

    def dump(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield what is held here."""
        for name, row in self._table.items():
            if self._layout.writes and (not row.integer or self.workers.rank == 0):  # channels are everyone's
                yield name, to_array(self._held[name])

    def load_optimizer_state(self, moments: NamedArrays, updates: int) -> None:
        """Take the moments of every trained parameter."""
        whole = check_arrays(self._layout.gather(moments), state_shapes(self._config))
        self._optimizer.load(
            ((name, self._layout.local_rows(name.rpartition(".")[0], array)) for name, array in whole), updates
        )

    def optimizer_state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the moments of what is held here."""
        return self._optimizer.state() if self._layout.writes else iter(())

    def step(self, micro_batches: Iterable[Batch], predictions: int, lr: float) -> StepResult:
        """Do one optimizer step; gradients of micro-batches add up, nothing waits for the device."""
        for parameter in (*self._parameters.values(), *self._trained.values()):
            parameter.grad = None
        total = torch.zeros(1, device=self._device)  # of the losses; with a teacher of divergences too
        with worker_errors(self.workers), GradientMemoryError.raised():
            for batch, last in with_last(micro_batches):
                self._layout.begin_micro_batch(last)
                sums = self._losses(batch)
                (sums[0] * (self.workers.world_size / predictions)).backward()  # which means gradients over the workers
                total = total + sums.detach()
        for name, held in self._trained.items():
            gradient = self._parameters[name].grad
            held.grad = None if gradient is None else self._layout.local_tensor(gradient)
        limit = self._config.train.grad_clip or float("inf")
        squares = self._squares([each.grad for each in self._trained.values() if each.grad is not None])
        with worker_errors(self.workers):
            squares, total = self._layout.all_reduce(squares, total)
        norm = squares.sqrt()
        skip = self.guard.should_skip(total[0], norm)
        if self.device != "cpu" or norm > limit:  # asking an accelerator would wait for it
            # By a norm that isn't finite none would stay so, and `suspects` couldn't tell which were the first.
            length = torch.where(norm.isfinite(), norm, 0.0).float()
            torch.nn.utils.clip_grads_with_norm_(self._trained.values(), limit, length)
        with worker_errors(self.workers):
            self._optimizer.step(lr, skip)
        divergence = (lambda: total[1].item() / predictions) if len(total) > 1 else None
        return StepResult(lambda: (total[0].item() / predictions, norm.item()), divergence)

    def _losses(self, batch: Batch) -> Tensor:
        """Return the summed nll, and with a teacher the summed divergence, (1,) or (2,); the first has the gradient."""
        tokens, targets = self._on_device(batch)
        teaching = self._teacher(tokens) if self._teacher else None
        if batch.soft is not None:
            teaching = taught(batch.soft, self._device)
        return self.model(tokens, targets, teaching=teaching).reshape(-1)

    def _squares(self, gradients: list[Tensor]) -> Tensor:
        """Return the sum of the squares of all entries."""
        if self._device.type == "cuda":  # few kernels for all tensors, which add in float64
            norms = list(torch._foreach_norm(gradients, dtype=self._wide))
        else:  # row by row: a float32 sum over all of an embedding of 16M entries is off by 1e-3, over a row by 1e-8
            norms = [torch.linalg.vector_norm(each, dim=-1) for each in gradients]
        return torch.cat([each.flatten() for each in norms]).to(self._wide).square().sum()

    def gradient_squares(self, micro_batches: Iterable[Batch], predictions: int) -> tuple[list[float], float]:
        """Return squared norms of each micro-batch's gradient, reduced over the workers, and of their sum."""
        squares: list[Tensor] = []
        total: list[Tensor] = []
        with worker_errors(self.workers):
            for batch in micro_batches:
                for parameter in (*self._parameters.values(), *self._trained.values()):  # of the step before too
                    parameter.grad = None
                self._layout.begin_micro_batch(last=True)  # so that it is reduced for itself
                (self._losses(batch)[0] * (self.workers.world_size / predictions)).backward()
                found = [each.grad for each in self._parameters.values() if each.grad is not None]
                gradients = [self._layout.local_tensor(each) for each in found]
                squares.append(self._squares(gradients))
                if total:
                    torch._foreach_add_(total, gradients)
                total = total or gradients
            stacked = torch.stack([*squares, self._squares(total)])
            stacked, _ = self._layout.all_reduce(stacked, torch.zeros_like(stacked))
        *parts, whole = stacked.tolist()
        return parts, whole

    def suspects(self) -> list[str]:
        """Name the parameters whose last gradients weren't finite, else the three largest ones'."""
        norms = {
            name: float(torch.linalg.vector_norm(held.grad, dtype=self._wide))
            for name, held in self._trained.items()
            if held.grad is not None
        }
        shares = [json.loads(text) for text in self.workers.all_gather(json.dumps(norms))]
        return worst({name: sum(share[name] ** 2 for share in shares) ** 0.5 for name in norms})

    def score(self, batches: Iterable[Batch]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each target's nll, and whether it is the likeliest."""
        for batch in batches:
            nll, likeliest = self._scores(batch, likeliest=True)
            assert likeliest is not None
            shape = batch.tokens[:, 1:].shape
            yield nll.cpu().numpy().reshape(shape), likeliest.cpu().numpy().reshape(shape)

    def evaluate(self, batches: Iterable[Batch]) -> tuple[float, int]:
        """Return (summed nll, predictions), in float64 where the device has it; nothing waits before the last batch."""
        sums, count = [], 0
        for batch in batches:
            nll, _ = self._scores(batch, likeliest=False)
            sums.append(nll.sum(dtype=self._wide))
            count += batch.predictions
        return sum(each.item() for each in sums), count

    @torch.no_grad()
    def _scores(self, batch: Batch, likeliest: bool) -> tuple[Tensor, Tensor | None]:
        tokens, targets = self._on_device(batch)
        with worker_errors(self.workers), self._uncompiled():
            return self.model(tokens, targets, likeliest)

    @torch.no_grad()
    def predict(self, batches: Iterable[Batch], top_k: int, temperature: float) -> Iterator[SoftTargets]:
        """Yield the likeliest entries of every prediction."""
        for batch in batches:
            with self._uncompiled():
                states = self.model.model(self._on_device(batch)[0]).flatten(0, 1)
            ids, kept = likeliest(states, self.model.head.to(states.dtype), top_k, temperature)
            shape = (*batch.tokens[:, 1:].shape, top_k)
            yield SoftTargets(ids.int().cpu().numpy().reshape(shape), kept.float().cpu().numpy().reshape(shape))

    @torch.no_grad()
    def activations(self, batch: Batch) -> tuple[list[float], float]:
        """Return the root mean square of each block's output, and the largest logit."""
        outputs: list[Tensor] = []
        with self._uncompiled():
            states = self.model.model(self._on_device(batch)[0], outputs=outputs).flatten(0, 1)
            head = self.model.head.to(states.dtype)
            largest = torch.stack([(part @ head.T).amax() for part in states.split(64)]).amax()  # never all of them
        return [each.float().square().mean().sqrt().item() for each in outputs], largest.item()

    def _uncompiled(self) -> AbstractContextManager[Any]:
        """Run blocks as they are, and compile nothing, in evaluation and generation.

        Their batches come in many shapes, and each would be compiled anew; and so one process's loss is to the bit what
        `lost eval` gets. Evaluation is a small part of a run.
        """
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return tokens (b, s) and targets (b * s,), both int64, after one copy, which on CUDA nothing waits for."""
        check_tokens(batch.tokens, self._entries)
        whole = arriving(torch.from_numpy(packed(batch)), self._device)
        if batch.mask is None:
            tokens = whole.long()
            return tokens[:, :-1], tokens[:, 1:].flatten()
        tokens = (whole ^ (whole >> 31)).long()  # a negative number's sign bit, in every place, inverts it
        return tokens[:, :-1], tokens[:, 1:].masked_fill(whole[:, 1:] < 0, IGNORED).flatten()

    @torch.no_grad()  # not inference mode: sharded weights that it gathers are trained with later
    def generate(self, prompt: Sequence[int], choose: Callable[[np.ndarray], int], limit: int) -> Iterator[int]:
        """Yield up to `limit` tokens, keys and values of what was read kept; rank 0 chooses them for all."""
        check_tokens(prompt, self._entries)
        model = self._config.model
        shape = (1, model.key_value_heads, len(prompt) + limit, model.head_width)
        keys = torch.empty(shape, device=self._device, dtype=DTYPES[self._config.train.compute_dtype])
        caches = [Cache(torch.empty_like(keys), torch.empty_like(keys)) for _ in self.model.model.layers]
        unread, read = list(prompt), 0
        for _ in range(limit):
            tokens = torch.tensor([unread], device=self._device)
            with worker_errors(self.workers), self._uncompiled():
                logits = self.model.logits(tokens, caches, read)[0, -1]
            read += len(unread)
            unread = [int(self.workers.broadcast(str(choose(to_array(logits.float())))))]
            yield unread[0]

    def memory(self) -> dict[str, int]:
        """Return the peak memory so far, in bytes; on CUDA also what is in use and what is cached."""
        return devices.memory(self.device)
