"""The budget of a run: parameters, FLOPs per token and memory, compared with a dense model's."""

from dataclasses import asdict, dataclass
from typing import Any

from lost.config import DTYPE_BYTES, Config
from lost.distributed.group import local_batch_size, model_shards
from lost.model.adapted import dense_twin, unquantized
from lost.model.parameters import EMBEDDING, HEAD, parameter_table, projections, vocabulary
from lost.optim import optimizer_of
from lost.planning.memory import mlx, torch
from lost.projections import Projection


@dataclass(frozen=True)
class Memory:
    """Bytes that training holds at its peak: weights, gradients, both moments, activations of one micro-batch.

    If the update takes more than the activations, `activations` is the update's.
    """

    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        """The sum of all four."""
        return self.weights + self.gradients + self.moments + self.activations


@dataclass(frozen=True)
class Budget:
    """The counts of one configuration.

    Attributes:
        parameters: parameters of the whole model.
        trained: those that are trained: all, but for adapters.
        projections: those inside the blocks' projections.
        embeddings: those of the embedding and, if it isn't tied, the head.
        flops_per_token: forward and backward, two FLOPs a multiply-add, a frozen weight without a gradient; attention
            over a full window, as in the PaLM paper (arXiv 2204.02311, appendix B).
        forward_flops_per_token: of that, forward alone.
        memory: estimate of training's peak, without the framework itself.
    """

    parameters: int
    trained: int
    projections: int
    embeddings: int
    flops_per_token: int
    forward_flops_per_token: int
    memory: Memory

    @property
    def without_embeddings(self) -> int:
        """The parameters that scaling laws count (arXiv 2001.08361, section 2.1)."""
        return self.parameters - self.embeddings


def budget(
    config: Config,
    backend: str = "torch",
    device: str = "cpu",
    micro_batch: int | None = None,
    local_batch: int | None = None,
    shards: int = 1,
    whole_steps: bool = False,
) -> Budget:
    """Count what training a configuration takes; exact except for the memory of activations.

    Args:
        config: its vocabulary known.
        backend: torch or mlx.
        device: as the backend names it.
        micro_batch: sequences in memory at once; None: the configuration's.
        local_batch: sequences per step of this worker; None: the whole batch.
        shards: workers that share one copy of the model; the memory is that of one worker.
        whole_steps: whether sharded weights and gradients stay gathered on each worker until a step's last micro-batch.
    """
    table = parameter_table(config)
    trained = sum(row.size for row in table.values() if row.trained)
    counted = parameter_table(unquantized(config))  # few bits are of as many parameters
    floats = sum(row.size for row in counted.values() if not row.integer)
    weights = sum(row.bytes for row in table.values() if not row.integer)
    integers = sum(row.size for row in table.values() if row.integer)
    inside = projections(config)
    model = config.model
    head = vocabulary(config) * model.hidden_size
    attention = 2 * config.data.seq_len * model.attention_width * model.num_hidden_layers
    forward = sum(each.multiply_adds() for each in inside) + head + attention
    output = counted.get(HEAD) or counted[EMBEDDING]
    products = [row for row in counted.values() if len(row.shape) > 1 and (row.name != EMBEDDING or row is output)]
    still = sum(row.size for row in products if row.frozen)
    width = DTYPE_BYTES[config.train.param_dtype]
    at_once = micro_batch or config.train.micro_batch
    memory = mlx if backend == "mlx" else torch
    # MLX holds the sum so far in addition to the gradients that are added to it; PyTorch where it measures their noise.
    apart = backend == "mlx" or config.train.noise_scale_every > 0
    sums = 2 if apart and at_once < (local_batch or config.train.batch_size) else 1
    # PyTorch's head makes its gradient beside the sum so far.
    summed = not output.frozen and at_once < (local_batch or config.train.batch_size)
    beside = head * width if backend == "torch" and summed else 0
    if backend == "torch":  # which unpacks a weight of few bits to integers, and from them to float32
        beside += 8 * max((each.in_features * each.out_features for each in inside if _is_packed(each)), default=0)
    # The update takes its memory when activations are freed already.
    update = mlx.update(config, device, trained * width) if backend == "mlx" else torch.update(config, shards)
    # What a worker holds gathered: embedding and head, two blocks at a time, and their gradients; or everything.
    whole_weights = whole_gradients = 0
    if shards > 1 or whole_steps:  # FSDP copies what one worker gathers from itself too
        computed, blocks = DTYPE_BYTES[config.train.compute_dtype], model.num_hidden_layers
        tables = head * (1 if model.tie_word_embeddings else 2)
        whole_weights = computed * (floats if whole_steps else tables + -(-2 * floats // blocks))
        moving = 0 if output.frozen else tables
        whole_gradients = 4 * trained if whole_steps else computed * (moving + -(-2 * trained // blocks))
    optimizer = optimizer_of(config)
    moments = sum(optimizer.bytes(row, width) for row in table.values() if row.trained)
    return Budget(
        parameters=floats,
        trained=trained,
        projections=sum(
            tensor.size
            for each in projections(unquantized(config))
            for tensor in each.tensors().values()
            if not tensor.integer
        ),
        embeddings=head * (1 if model.tie_word_embeddings else 2),
        flops_per_token=6 * forward - 2 * still,
        forward_flops_per_token=2 * forward,
        memory=Memory(
            weights=weights // shards + 4 * integers + whole_weights,
            gradients=sums * trained * width // shards + whole_gradients,
            moments=moments // shards,
            activations=max(memory.activations(config, device, at_once) + beside, update),
        ),
    )


def _is_packed(projection: Projection) -> bool:
    return any(tensor.bits for tensor in projection.tensors().values())


def report(config: Config, backend: str, device: str, workers: int = 1, whole_steps: bool = False) -> dict[str, Any]:
    """Return the answer of `lost plan --json`: the run's figures and those of its dense twin.

    Args:
        config: its vocabulary and its micro-batch known.
        backend: torch or mlx.
        device: as the backend names it.
        workers: processes that share the run; the memory is that of one.
        whole_steps: as `budget` takes it.
    """
    local_batch, micro_batch = local_batch_size(config, workers)
    split = (micro_batch, local_batch, model_shards(config, workers), whole_steps)
    own, dense = (budget(each, backend, device, *split) for each in (config, dense_twin(config)))
    return {
        "vocab_size": config.model.vocab_size,
        "parameters": {
            "total": own.parameters,
            "trained": own.trained,
            "projections": own.projections,
            "embeddings": own.embeddings,
            "dense_equivalent": dense.parameters,
        },
        "flops_per_token": own.flops_per_token,
        "micro_batch_size": micro_batch,
        "memory_bytes": {**asdict(own.memory), "total": own.memory.total},
        "dense": {
            "flops_per_token": dense.flops_per_token,
            "memory_bytes": {**asdict(dense.memory), "total": dense.memory.total},
        },
    }
