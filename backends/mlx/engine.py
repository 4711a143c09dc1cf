"""The MLX engine: one optimizer step, evaluation and generation, on one device or one of several under `mlx.launch`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import inf

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from lost.backends.mlx import devices
from lost.backends.mlx.arrays import DTYPES, to_array, to_mlx
from lost.backends.mlx.distillation.loss import taught_loss
from lost.backends.mlx.distillation.teacher import Teacher, likeliest, taught
from lost.backends.mlx.distributed.group import MlxGroup
from lost.backends.mlx.kernels.loss import head_loss, head_scores
from lost.backends.mlx.model import Model
from lost.backends.mlx.optim.base import Named, Single, StackedUpdate
from lost.backends.mlx.optim.clipped import cast, joint, move
from lost.backends.mlx.optim.stacks import Names, Stacks, kinds, parted, split
from lost.config import Config
from lost.data.batch import Batch, SoftTargets, check_tokens
from lost.distributed.group import SingleProcess, Workers, local_batch_size
from lost.engine import StepResult
from lost.engine.registry import implementation
from lost.errors import BackendError, GradientMemoryError
from lost.model.parameters import EMBEDDING, HEAD, index_limits, parameter_table, vocabulary
from lost.optim import optimizer_of, state_shapes
from lost.optim.gradients.skip_step import SkipRule, worst
from lost.optim.muon import AT_ONCE
from lost.planning.budget import budget
from lost.planning.memory.mlx import compiles
from lost.storage.arrays import NamedArrays, check_arrays
from lost.utils.threads import threads_asked_for


class MlxEngine:
    """A model on a device. Implements `lost.engine.Engine`.

    MLX is lazy: what a method builds is computed where it is told to, once a micro-batch and once a step, with fixed
    shapes. Making an engine sets MLX's default device for the whole process.

    Args:
        config: the run; its vocabulary known.
        device: `auto`, `cpu` or `gpu`.
        workers: what `join` returned, where several processes train together.

    Raises:
        BackendError: the device isn't here, or isn't deterministic.
        ConfigError: the batch can't be divided over the workers.
    """

    backend = "mlx"
    first_rows: Mapping[str, int] = {}  # every worker holds the whole model
    yields_views = True  # of memory that a processor shares with its GPU

    def __init__(self, config: Config, device: str = "auto", workers: Workers | None = None) -> None:
        self._config, self.device, self.workers = config, devices.resolve(device), workers or SingleProcess()
        if config.train.deterministic and self.device == "gpu":
            raise BackendError(
                "train.deterministic = true: MLX doesn't promise it on Metal; expected CUDA or a CPU; remove it"
            )
        local_batch, micro_batch = local_batch_size(config, self.workers.world_size)
        memory = budget(config, self.backend, self.device, micro_batch, local_batch).memory
        self._reusable = memory.activations + memory.gradients  # bytes that a step frees, and the next one takes
        devices.use(self.device)
        self._table, self._entries = parameter_table(config), vocabulary(config)
        train = config.train
        kept = DTYPES[train.param_dtype]
        self.model = Model(config, DTYPES[train.compute_dtype], kept)
        self.model.model.keep(train.checkpoint_activations)
        self.model.hold(name for name, row in self._table.items() if row.frozen)
        update = implementation("optimizer.name", config.optimizer.name, optimizer_of(config).updates, self.backend)
        self.compiled = compiles(train, self.device)
        stacks = getattr(update, "stacks", None)
        most = AT_ONCE if stacks == "always" or (stacks and self.compiled) else 1
        self._names = kinds(config.optimizer, [row for row in self._table.values() if row.trained], most)
        self._stacks = {each: mx.zeros((len(each), *self._table[each[0]].shape), kept) for each in self._names}
        self._optimizer: StackedUpdate = (update if stacks else partial(Single, update))(
            config.optimizer, self._stacks, self._table
        )
        self._begun, self.guard = False, SkipRule(train)
        self._suspects: list[str] = []
        self._teacher: Teacher | None = None
        self._micro_step: Callable[..., tuple[mx.array, Stacks]] = partial(
            _micro_step, self.model, config, self._stacks
        )
        # No method: the engine would refer to itself, and its model would stay after it is dropped.
        self._update: Callable[[mx.array, mx.array, Stacks], None] = partial(move, self._optimizer, self._stacks, train)
        self._joint: Callable[[Stacks], tuple[mx.array, Stacks]] = partial(
            joint, {names: each.ndim for names, each in self._stacks.items()}
        )
        if self.compiled:
            self._micro_step = mx.compile(self._micro_step, inputs=[self.model.state, self._stacks])
            self._joint = mx.compile(self._joint)
        if self.compiled and self._optimizer.compiles:
            held = [self._stacks, self._optimizer.held()]
            self._update = mx.compile(self._update, inputs=held, outputs=held)

    @property
    def threads(self) -> int | None:
        """The threads that the BLAS behind MLX was asked to use, on a CPU."""
        return threads_asked_for() if self.device == "cpu" else None

    def load(self, parameters: NamedArrays) -> None:
        """Take every parameter, cast to the type that it is stored in; the peak of memory is from here on.

        And MLX keeps as much memory for reuse as this engine's steps want.
        """
        devices.begin(self._reusable)
        types = {**DTYPES, "int32": mx.int32}
        empty = {name: mx.zeros(row.shape, types[row.dtype]) for name, row in self._table.items()}
        self.model.update(tree_unflatten(list(self._filled(empty, parameters))))
        del empty
        values = dict(tree_flatten(self.model.parameters()))
        for names in self._names:
            self._stacks[names] = mx.stack([values.pop(name) for name in names])
            self._show(names)
            mx.eval(self._stacks[names])

    def _show(self, *some: Names) -> None:
        """Have the model see stacks, as they are now: its own arrays are views of them."""
        self.model.update(tree_unflatten(list(parted({names: self._stacks[names] for names in some}))))

    def teach(self, teacher: Config, parameters: NamedArrays) -> None:
        """Take a teacher, whole in this process."""
        self._teacher = Teacher(teacher, parameters)

    def _taught(self, batch: Batch, tokens: mx.array) -> Sequence[mx.array]:
        """Return what a teacher predicts, where there is one."""
        if batch.soft is not None:
            return taught(batch.soft)
        return self._teacher(tokens) if self._teacher else ()

    def dump(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every parameter."""
        values = dict(tree_flatten(self.model.parameters()))
        for name in self._table:
            yield name, to_array(values[name])

    def load_optimizer_state(self, moments: NamedArrays, updates: int) -> None:
        """Take the optimizer state of every trained parameter."""
        dtype = DTYPES[self._config.train.param_dtype]
        empty = {name: mx.zeros(shape, dtype) for name, shape in state_shapes(self._config).items()}
        self._optimizer.load(dict(self._filled(empty, moments)), updates)
        del empty
        mx.eval(self._optimizer.held())
        self._begun = True

    def optimizer_state(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the optimizer state; nothing before the first step."""
        if self._begun:
            yield from ((name, to_array(array)) for name, array in self._optimizer.state())

    def _filled(self, targets: dict[str, mx.array], arrays: NamedArrays) -> Iterator[tuple[str, mx.array]]:
        """Yield arrays in the shapes and types of `targets`; of several workers, rank 0's."""
        if self.workers.rank == 0:
            shapes = {name: target.shape for name, target in targets.items()}
            for name, array in check_arrays(arrays, shapes, index_limits(self._table)):
                targets[name] = to_mlx(array).astype(targets[name].dtype)
                mx.eval(targets[name])
        return self.workers.spread(targets) if isinstance(self.workers, MlxGroup) else iter(targets.items())

    def step(self, micro_batches: Iterable[Batch], predictions: int, lr: float) -> StepResult:
        """Do one optimizer step; gradients of micro-batches add up.

        A micro-batch is read, and its graph made, while the one before is computed; only then is it begun.
        """
        scale = mx.array(self.workers.world_size / predictions)  # as a number it would be compiled in
        total, gradients = mx.array(0.0), None
        with GradientMemoryError.raised():
            for batch in micro_batches:
                tokens, *labels = self._on_device(batch)
                sums, gradients = self._micro_step(tokens, *labels, scale, gradients, *self._taught(batch, tokens))
                mx.eval(total)  # of those before
                total = total + sums
                mx.async_eval(total, gradients)
            mx.eval(total, gradients)
        assert gradients is not None
        if isinstance(self.workers, MlxGroup):
            gradients, total = self._reduced(self.workers, gradients, total)
        norm, whole = self._joint(gradients)
        del gradients
        self._begun = True
        loss, *divergence = (to_array(total.flatten()) / predictions).tolist()
        length = _number(norm)
        result = StepResult(lambda: (loss, length), (lambda: divergence[0]) if divergence else None)
        if self.guard.should_skip(loss, length):
            self._suspects = worst({name: _number(mx.linalg.norm(each)) for name, each in parted(whole)})
            return result
        self._update(mx.array(lr), norm, whole)
        self._show(*self._names)
        del whole  # so that what is computed from them takes their memory
        mx.eval(self._stacks, self._optimizer.held())
        return result

    def _reduced(self, workers: MlxGroup, gradients: Stacks, total: mx.array) -> tuple[Stacks, mx.array]:
        mean, total = workers.reduce(list(gradients.values()), total)
        return dict(zip(gradients, mean, strict=True)), total

    def gradients(self, batch: Batch) -> Named:
        """Return the gradient of a batch's mean loss, by parameter."""
        _, parts = self._micro_step(*self._on_device(batch), mx.array(1 / batch.predictions), None)
        return dict(parted(self._joint(parts)[1]))

    def gradient_squares(self, micro_batches: Iterable[Batch], predictions: int) -> tuple[list[float], float]:
        """Return squared norms of each micro-batch's gradient, reduced over the workers, and of their sum."""
        scale, squares, total = mx.array(self.workers.world_size / predictions), [], None
        for batch in micro_batches:
            tokens, *labels = self._on_device(batch)
            sums, gradients = self._micro_step(tokens, *labels, scale, None, *self._taught(batch, tokens))
            if isinstance(self.workers, MlxGroup):
                gradients, _ = self._reduced(self.workers, gradients, sums)
            squares.append(self._square(gradients))
            total = gradients if total is None else tree_map(mx.add, total, gradients)
            mx.eval(total)
        assert total is not None
        return squares, self._square(total)

    def _square(self, gradients: Stacks) -> float:
        return _number(self._joint(gradients)[0]) ** 2

    def suspects(self) -> list[str]:
        """Name the parameters whose gradients in the last skipped update weren't finite, else the three largest."""
        return self._suspects

    def score(self, batches: Iterable[Batch]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each target's nll, and whether it is the likeliest."""
        for batch in batches:
            nll, likeliest, _ = self._scores(batch, likeliest=True)
            assert likeliest is not None
            mx.eval(nll, likeliest)  # together, or the whole model would be computed twice
            shape = batch.tokens[:, 1:].shape
            yield to_array(nll).reshape(shape), to_array(likeliest).reshape(shape)

    def evaluate(self, batches: Iterable[Batch]) -> tuple[float, int]:
        """Return (summed nll, predictions), summed in float64."""
        total, count = 0.0, 0
        for batch in batches:
            nll, _, mask = self._scores(batch, likeliest=False)
            total += float(to_array(mx.where(mask, nll, 0.0)).sum(dtype=np.float64))
            count += batch.predictions
        return total, count

    def predict(self, batches: Iterable[Batch], top_k: int, temperature: float) -> Iterator[SoftTargets]:
        """Yield the likeliest entries of every prediction."""
        for batch in batches:
            states = self.model.model(self._on_device(batch)[0]).flatten(0, 1)
            ids, kept = likeliest(states, self.model.head.astype(states.dtype), top_k, temperature)
            shape = (*batch.tokens[:, 1:].shape, top_k)
            yield SoftTargets(to_array(ids).astype(np.int32).reshape(shape), to_array(kept).reshape(shape))

    def activations(self, batch: Batch) -> tuple[list[float], float]:
        """Return the root mean square of each block's output, and the largest logit."""
        outputs: list[mx.array] = []
        states = self.model.model(self._on_device(batch)[0], outputs=outputs).flatten(0, 1)
        head, largest = self.model.head.astype(states.dtype), -inf
        for first in range(0, len(states), 64):  # never all of them
            largest = max(largest, _number((states[first : first + 64] @ head.T).max()))
        return [_number(mx.sqrt(each.astype(mx.float32).square().mean())) for each in outputs], largest

    def _scores(self, batch: Batch, likeliest: bool) -> tuple[mx.array, mx.array | None, mx.array]:
        tokens, targets, mask = self._on_device(batch)
        states = self.model.model(tokens).flatten(0, 1)
        return *head_scores(states, self.model.head, targets, likeliest), mask

    def _on_device(self, batch: Batch) -> tuple[mx.array, mx.array, mx.array]:
        """Return tokens (b, s), and targets and whether they count, both (b * s,)."""
        check_tokens(batch.tokens, self._entries)
        tokens, targets = batch.tokens[:, :-1], batch.tokens[:, 1:].reshape(-1)
        mask = np.ones(targets.shape, bool) if batch.mask is None else batch.mask.reshape(-1)
        return mx.array(tokens), mx.array(targets), mx.array(mask)

    def generate(self, prompt: Sequence[int], choose: Callable[[np.ndarray], int], limit: int) -> Iterator[int]:
        """Yield up to `limit` tokens, through mlx-lm's generation and its key-value caches.

        Raises:
            BackendError: mlx-lm isn't installed.
        """
        check_tokens(prompt, self._entries)
        chosen: list[int] = []

        def choosing(_: mx.array, logits: mx.array) -> mx.array:
            """Choose here, where logits are: a sampler is given log-probabilities."""
            chosen[:] = [choose(to_array(logits[0].astype(mx.float32)))]
            return logits

        for token, _ in _generate_step()(
            mx.array(list(prompt)),
            self.model,
            mx.default_stream(mx.default_device()),
            max_tokens=limit,
            logits_processors=[choosing],
            sampler=lambda _: mx.array(chosen),
        ):
            yield int(token)

    def memory(self) -> dict[str, int]:
        """Return the peak, active and cached memory, in bytes."""
        return devices.memory()


def check_generation() -> None:
    """Check that mlx-lm, which generates, is installed."""
    _generate_step()


def _generate_step() -> Callable[..., Iterator[tuple[mx.array, mx.array]]]:
    """Return mlx-lm's generation, which takes seconds to import.

    Raises:
        BackendError: mlx-lm isn't installed.
    """
    try:
        from mlx_lm.generate import generate_step
    except ImportError as error:
        raise BackendError(
            f"generating with MLX takes mlx-lm: {error}; install it with: pip install --upgrade mlx-lm"
        ) from None
    return generate_step


def _micro_step(
    model: Model,
    config: Config,
    stacks: Stacks,
    tokens: mx.array,
    targets: mx.array,
    mask: mx.array,
    scale: mx.array,
    before: Stacks | None,
    *teaching: mx.array,
) -> tuple[mx.array, Stacks]:
    """Return the summed negative log-likelihood, and the gradients of `scale` times it added to those before.

    With what a teacher predicts, both sums of `taught_loss`, and the gradients of the first.
    """
    z_loss, read = config.train.z_loss, _read(model, stacks)

    def scaled_loss(parts: Stacks) -> tuple[mx.array, mx.array]:
        model.take(parts, read)
        states = model.model(tokens).flatten(0, 1)
        trains_head = bool(model.head_owner.trainable_parameters())
        if not teaching:
            nll = head_loss(states, model.head, targets, mask, z_loss, trains_head)
            return nll * scale, nll
        sums = taught_loss(states, model.head, targets, mask, teaching, config.teacher, z_loss, trains_head)
        return sums[0] * scale, sums

    shown, dtype = model.trainable_parameters(), DTYPES[config.train.param_dtype]
    # In the order of a forward pass: in which gradients are asked for decides what is held meanwhile.
    order = list(dict(tree_flatten(shown)))
    parts = model.in_summands(split(read, model.together(), order), tokens.size)
    (_, sums), gradients = mx.value_and_grad(scaled_loss)(parts)
    model.update(shown)
    model.release()
    gradients = cast(gradients, dtype)
    if before is not None:
        gradients = tree_map(mx.add, before, gradients)
    return sums, gradients


def _read(model: Model, stacks: Stacks) -> Stacks:
    """Return stacks in the types that they are computed in: matrices inside the blocks are cast in one kernel a stack.

    Layers would cast them one by one; where they are computed anew, that is left to them, so that no cast is kept.
    """
    if model.model.checkpointing != "none":
        return stacks
    return {
        names: stack.astype(model.model.dtype) if stack.ndim == 3 and not {EMBEDDING, HEAD} & {*names} else stack
        for names, stack in stacks.items()
    }


def _number(value: mx.array) -> float:
    """Return a scalar, once the device has computed it."""
    return float(to_array(value))
