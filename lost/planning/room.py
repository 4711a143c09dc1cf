"""Whether a run fits its device by the estimate of `budget`, and what to change where it doesn't."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict, replace

from lost.config import Config
from lost.distributed.group import local_batch_size, model_shards
from lost.errors import ConfigError
from lost.planning.budget import Memory, budget
from lost.planning.memory.measuring import measuring, measuring_config
from lost.utils.wording import sized

_CLOSE, _SMALL = 0.1, 2**30  # below so many bytes, what isn't counted (workspaces, rounding up) is a large part


def check_room(
    config: Config, backend: str, device: str, room: int, workers: int = 1, teacher: int = 0, begins: bool = False
) -> Memory:
    """Refuse a run that doesn't fit its device by this estimate: running out of memory may come hours later.

    Args:
        config: its vocabulary known.
        backend: torch or mlx.
        device: as the backend names it.
        room: the memory in bytes that a run may take there.
        workers: processes that share the batch, one device each, with `room` bytes each.
        teacher: bytes of a teacher's weights, which each of them holds.
        begins: whether the run begins with a model that its adapters are of, and that some kinds measure.

    Returns:
        The estimate of training, the teacher's among the weights.

    Raises:
        ConfigError: it doesn't fit; the message has the numbers, and the largest micro-batch that does.
    """
    local_batch, micro_batch = local_batch_size(config, workers)
    needed = _estimate(config, backend, device, workers)(micro_batch)
    needed = replace(needed, weights=needed.weights + teacher)
    if needed.total <= room:
        if begins:
            _check_beginning(config, backend, device, room, workers)
        return needed
    if fitting := smaller_micro_batch(config, backend, device, room - teacher, workers, below=local_batch):
        remedy = f"the nearest that fits is --set train.micro_batch_size={fitting}, which computes the same"
    else:
        remedy = f"no train.micro_batch_size alone makes it fit; try {settings_that_take_less(config)}"
    parts = ", ".join(f"{sized(value)} {name}" for name, value in asdict(needed).items())
    parts += f"; {sized(teacher)} of the weights are the teacher's" if teacher else ""
    raise ConfigError(
        f"train.micro_batch_size = {micro_batch}: training needs about {sized(needed.total)} ({parts}), and "
        f"{device} has {sized(room)}; expected less; {remedy}"
    )


def beginning(config: Config, backend: str, device: str, workers: int = 1) -> int:
    """Return the bytes that a run holds where it measures what its adapters begin by; 0: nothing.

    That is before it has gradients, moments, or a teacher. One process measures, and has the base model whole.

    Args:
        config: its vocabulary and its micro-batch known.
        backend: torch or mlx.
        device: as the backend names it.
        workers: processes that share the run.
    """
    taken = measuring(config, backend, device)
    return _own_weights(config, backend, device, workers) + taken.base + taken.beside if taken else 0


def _own_weights(config: Config, backend: str, device: str, workers: int) -> int:
    return _estimate(config, backend, device, workers)(1).weights


def _check_beginning(config: Config, backend: str, device: str, room: int, workers: int) -> None:
    """Refuse a run that has no room for its base model beside its own weights.

    Raises:
        ConfigError: it hasn't.
    """
    taken, needed = measuring(config, backend, device), beginning(config, backend, device, workers)
    if taken is None or needed <= room:
        return
    own = _own_weights(config, backend, device, workers)
    halves = "--set train.frozen_dtype=bfloat16 --set train.dtype=bfloat16, which halve the base model's, or "
    raise ConfigError(
        f"projection.kind = {taken.kind}: where it begins, the run measures its base model beside itself, which needs "
        f"about {sized(needed)} ({sized(own)} its own weights, {sized(taken.base)} the base "
        f"model's, {sized(taken.beside)} for what is measured), and {device} has {sized(room)}; expected less; try "
        f"{'' if measuring_config(config).train.param_dtype == 'bfloat16' else halves}a kind that measures nothing, "
        "such as lora"
    )


def smaller_micro_batch(
    config: Config, backend: str, device: str, room: int, workers: int, below: int, whole_steps: bool = False
) -> int | None:
    """Return the largest micro-batch below a size that fits by the estimate, and divides a worker's share of the batch.

    Args:
        config: its vocabulary known.
        backend: torch or mlx.
        device: as the backend names it.
        room: the memory in bytes that a run may take there.
        workers: processes that share the batch.
        below: the size.
        whole_steps: whether sharded weights and gradients are to stay gathered for whole steps.

    Returns:
        None: there is none.
    """
    local_batch = local_batch_size(config, workers)[0]
    memory = _estimate(config, backend, device, workers, whole_steps)
    at_most = bisect_right(range(1, below), room, key=lambda size: memory(size).total)
    return next((size for size in range(at_most, 0, -1) if local_batch % size == 0), None)


def fits(config: Config, backend: str, device: str, room: int, workers: int, micro_batch: int) -> bool:
    """Return whether so many sequences at once fit by the estimate."""
    return _estimate(config, backend, device, workers)(micro_batch).total <= room


def peak_remark(peak: int, estimate: int) -> str:
    """Return what is to be said where the first steps' peak of memory, in bytes, is over a tenth off its estimate."""
    if abs(peak - estimate) <= _CLOSE * max(estimate, _SMALL):
        return ""
    return f"the first steps took {sized(peak)} of memory at their peak, where {sized(estimate)} were estimated"


def settings_that_take_less(config: Config) -> str:
    """Name the settings beside the micro-batch that lower a run's memory, and that it doesn't have yet."""
    train = config.train
    policies = {"none": ["narrow", "full"], "narrow": ["full"], "full": []}[train.checkpoint_activations]
    settings = [f"train.checkpoint_activations={policy}" for policy in policies]
    settings += ["train.dtype=bfloat16"] if train.compute_dtype == "float32" else []
    if train.param_dtype == "float32":
        try:
            config.replace("train", dtype="bfloat16", param_dtype="bfloat16")
            settings += ["train.param_dtype=bfloat16"]
        except ValueError:  # Muon's updates need float32
            pass
    return ", ".join([*settings, "a smaller model"])


def fits_whole(config: Config, device: str, room: int, workers: int) -> bool:
    """Return whether each PyTorch worker has memory for all weights and gradients during a step.

    Then weights are all-gathered, and gradients reduce-scattered, once a step rather than in each micro-batch and pass.
    Beside a teacher they aren't.
    """
    if config.teacher.path is not None:
        return False
    micro_batch = local_batch_size(config, workers)[1]
    return _estimate(config, "torch", device, workers, whole_steps=True)(micro_batch).total <= room


def _estimate(
    config: Config, backend: str, device: str, workers: int, whole_steps: bool = False
) -> Callable[[int], Memory]:
    """Return the estimate of one worker's memory by its micro-batch."""
    local_batch = local_batch_size(config, workers)[0]
    shards = model_shards(config, workers) if backend == "torch" else 1
    return lambda size: budget(config, backend, device, size, local_batch, shards, whole_steps).memory
