"""The cost of a run on many cards, on paper: bytes sent, time by the speed of a link, memory, tokens a second.

Sharded as `lost.backends.torch.distributed.sharded` does it, S cards to a copy of the model, R copies. With P padded
parameters, of w bytes as they are computed with, every card sends in a ring:

- all-gathering the weights: (S - 1) / S x P x w bytes,
- reduce-scattering the gradients, in float32: (S - 1) / S x P x 4,
- all-reducing its part of them between copies: 2 (R - 1) / R x P / S x 4.

Whole steps do each once a step. Block by block, each micro-batch gathers the blocks for its forward and again for its
backward pass, embedding and head once, and reduces all gradients. What Muon and its kin send is by `_orthogonalized`.
"""

from dataclasses import dataclass
from typing import Any

from lost.config import DTYPE_BYTES, Config
from lost.distributed.group import local_batch_size, model_shards
from lost.errors import ConfigError
from lost.model.adapted import dense_twin
from lost.model.parameters import parameter_table
from lost.optim import optimizer_of
from lost.planning.budget import budget
from lost.planning.micro_batch import with_micro_batch
from lost.planning.roofline import Card, step_on_a_card
from lost.planning.room import fits_whole

_GRADIENT = 4  # bytes: gradients are summed in float32


def check_sharded(config: Config, world: int) -> None:
    """Refuse settings that a model can't have whose rows so many workers share.

    Raises:
        ConfigError: they can't form `train.replicas` groups, the optimizer's state can't be split by rows, or whole
            weights are to be looked at.
    """
    shards = model_shards(config, world)
    if not optimizer_of(config).by_rows and shards > 1:
        raise ConfigError(
            f"optimizer.name = {config.optimizer.name} with {shards} workers a model: its state can't be split by "
            "rows; expected an optimizer whose state can; set optimizer.name=adamw, or train.replicas to the number of "
            "workers"
        )
    if config.train.inspect_every:
        raise ConfigError(
            f"train.inspect_every = {config.train.inspect_every} under torchrun: no worker holds a whole weight, of "
            "which singular values are wanted; expected 0; remove it, and look at checkpoints by `lost inspect`"
        )


@dataclass(frozen=True)
class Traffic:
    """Bytes that each card sends in a step.

    Attributes:
        gathered: weights, to the other cards of its copy.
        scattered: gradients, to the same.
        between_copies: gradients, to the cards of other copies.
        orthogonalized: what matrices are orthogonalized by, to the other cards of its copy.
    """

    gathered: int
    scattered: int
    between_copies: int
    orthogonalized: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.gathered + self.scattered + self.between_copies + self.orthogonalized


def traffic(config: Config, world: int, whole_steps: bool) -> Traffic:
    """Return what a card sends in a step.

    Args:
        config: its vocabulary and its micro-batch known.
        world: number of cards.
        whole_steps: whether weights and gradients stay gathered for a whole step.

    Raises:
        ConfigError: the batch can't be divided, or the cards can't form `train.replicas` groups.
    """
    shards, copies = model_shards(config, world), config.train.replicas
    local_batch, micro_batch = local_batch_size(config, world)
    rounds = 1 if whole_steps else local_batch // micro_batch
    blocks = others = 0  # entries of a card's part, padded to equal rows
    for name, row in parameter_table(config).items():
        if row.trained:
            size = -(-row.shape[0] // shards) * (row.size // row.shape[0])
            if name.startswith("model.layers."):
                blocks += size
            else:
                others += size
    passes = 1 if whole_steps else 2
    return Traffic(
        gathered=rounds * (shards - 1) * (passes * blocks + others) * DTYPE_BYTES[config.train.compute_dtype],
        scattered=rounds * (shards - 1) * (blocks + others) * _GRADIENT,
        between_copies=rounds * 2 * (copies - 1) * (blocks + others) * _GRADIENT // copies,
        orthogonalized=_orthogonalized(config, shards),
    )


def _orthogonalized(config: Config, shards: int) -> int:
    """Return the bytes that a card sends so that matrices, of which it holds some rows, are orthogonalized.

    Each card is sent whole matrices, an equal share of those of a shape, and sends their rows back.
    """
    shapes = optimizer_of(config).orthogonalized(parameter_table(config))
    entries = sum(-(-n // shards) * -(-rows // shards) * columns for (rows, columns), n in shapes.items())
    return 2 * (shards - 1) * entries * DTYPE_BYTES[config.optimizer.orthogonalize_dtype]


@dataclass(frozen=True)
class Plan:
    """A run on so many cards.

    Attributes:
        world: number of cards.
        micro_batch: sequences in memory at once on each.
        whole_steps: whether weights and gradients stay gathered for a whole step, as they do where there is room.
        fits: whether a card has the memory.
        memory: bytes a card needs.
        sent: bytes a card sends in a step, as it is, and by both modes.
        computing: seconds of a step's computation, by the roofline.
        sending: seconds of a step's communication, by the link.
        tokens: of a step, on all cards.
    """

    world: int
    micro_batch: int
    whole_steps: bool
    fits: bool
    memory: int
    sent: dict[str, Traffic]
    computing: float
    sending: float
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        """Of all cards, where all that is sent is hidden behind computing, or the other way round."""
        return self.tokens / max(self.computing, self.sending)


def plan_cluster(config: Config, world: int, link: float, card: Card, room: int) -> Plan | None:
    """Return how a run would go; None: it has a projection whose work the roofline doesn't count.

    Args:
        config: its vocabulary known.
        world: number of cards.
        link: bytes a second that a card sends while it receives as many.
        card: each of them.
        room: memory in bytes that a run may take on each.

    Raises:
        ConfigError: the batch can't be divided, or the cards can't form `train.replicas` groups.
    """
    config = with_micro_batch(config, "torch", "cuda", room, world)
    local_batch, micro_batch = local_batch_size(config, world)
    shards = model_shards(config, world)
    step = step_on_a_card(config, card, micro_batch, local_batch, shards)
    if step is None:
        return None
    whole_steps = fits_whole(config, "cuda", room, world)
    memory = budget(config, "torch", "cuda", micro_batch, local_batch, shards, whole_steps).memory.total
    sent = {name: traffic(config, world, whole) for name, whole in (("whole_steps", True), ("block_by_block", False))}
    seconds = sent["whole_steps" if whole_steps else "block_by_block"].total / link
    tokens = config.tokens_per_step
    return Plan(world, micro_batch, whole_steps, memory <= room, memory, sent, step.seconds, seconds, tokens)


def paced_by_link(config: Config, link: float, card: Card, room: int) -> int | None:
    """Return the smallest power of two of cards from which on sending takes longer than computing; None: none can.

    The batch is the configuration's, so that each card has less to compute the more there are.
    """
    world = config.train.replicas
    at_once = config.train.micro_batch_size if isinstance(config.train.micro_batch_size, int) else 1
    while config.train.batch_size % (world * at_once) == 0:
        plan = plan_cluster(config, world, link, card, room)
        if plan and plan.fits and plan.sending > plan.computing:
            return world
        world *= 2
    return None


def report(config: Config, world: int, link: float, card: Card, room: int) -> dict[str, Any]:
    """Return `cluster` of `lost plan --json`: the run's figures and those of its dense twin, None where unknown.

    Raises:
        ConfigError: the batch can't be divided, or the cards can't form `train.replicas` groups.
    """
    return {
        "world": world,
        "link_bytes_per_second": link,
        **_figures(config, world, link, card, room),
        "dense": _figures(dense_twin(config), world, link, card, room),
    }


def _figures(config: Config, world: int, link: float, card: Card, room: int) -> dict[str, Any]:
    plan = plan_cluster(config, world, link, card, room)
    if plan is None:
        return {}
    return {
        "micro_batch_size": plan.micro_batch,
        "mode": "whole_steps" if plan.whole_steps else "block_by_block",
        "fits": plan.fits,
        "memory_bytes": plan.memory,
        "sent_bytes": {name: each.total for name, each in plan.sent.items()},
        "computing_seconds": plan.computing,
        "sending_seconds": plan.sending,
        "tokens_per_second": plan.tokens_per_second,
        "paced_by_link_from": paced_by_link(config, link, card, room),
    }
