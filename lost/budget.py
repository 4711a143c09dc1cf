"""What a run costs before it starts: parameters, FLOPs a token, bytes of memory, beside a dense model's."""

from dataclasses import asdict, dataclass
from typing import Any

from lost.config import Config
from lost.parameters import gate_is_activated, layer_projections, parameter_table, projections, vocabulary

_BYTES = {"float32": 4, "bfloat16": 2}
# Logits that the head's loss holds at once: 32 MiB of float32 is best on a CPU (benchmarks/head_loss.py); larger
# products keep an accelerator busy.
CPU_LOGITS, ACCELERATOR_LOGITS = 1 << 23, 1 << 27


@dataclass(frozen=True)
class Memory:
    """Bytes that training holds at its peak: weights, gradients, both moments, activations of one micro-batch."""

    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.moments + self.activations


@dataclass(frozen=True)
class Budget:
    """Counts of one configuration.

    Attributes:
        parameters: trained parameters of the whole model.
        projections: those inside the blocks' projections.
        embeddings: those of the embedding and, if it isn't tied, the head.
        flops_per_token: forward and backward, two FLOPs a multiply-add; attention over a full window, as in the PaLM
            paper (arXiv 2204.02311, appendix B).
        memory: estimate of the training's peak, without the framework itself.
    """

    parameters: int
    projections: int
    embeddings: int
    flops_per_token: int
    memory: Memory


def budget(config: Config, device: str = "cpu") -> Budget:
    """Count what training a configuration takes; exact but for the memory of activations."""
    table = parameter_table(config)
    trained = sum(row.size for row in table.values() if row.trained)
    integers = sum(row.size for row in table.values() if not row.trained)
    inside = projections(config)
    model = config.model
    head = vocabulary(config) * model.hidden_size
    attention = 2 * config.data.seq_len * model.hidden_size * model.num_hidden_layers
    forward = sum(each.multiply_adds() for each in inside) + head + attention
    width = _BYTES[config.train.param_dtype]
    return Budget(
        parameters=trained,
        projections=sum(each.parameters() for each in inside),
        embeddings=head * (1 if model.tie_word_embeddings else 2),
        flops_per_token=6 * forward,
        memory=Memory(
            weights=trained * width + integers * 4,
            gradients=trained * width,
            moments=2 * trained * width,
            activations=_activations(config, device),
        ),
    )


def dense_twin(config: Config) -> Config:
    """Return the configuration with every projection dense."""
    return config.replace("projection", kind="dense", overrides={})


def report(config: Config, device: str) -> dict[str, Any]:
    """Return what `lost plan --json` answers, the dense twin's figures beside the run's own."""
    own, dense = budget(config, device), budget(dense_twin(config), device)
    return {
        "parameters": {
            "total": own.parameters,
            "projections": own.projections,
            "embeddings": own.embeddings,
            "dense_equivalent": dense.parameters,
        },
        "flops_per_token": own.flops_per_token,
        "memory_bytes": {**asdict(own.memory), "total": own.memory.total},
        "dense": {
            "flops_per_token": dense.flops_per_token,
            "memory_bytes": {**asdict(dense.memory), "total": dense.memory.total},
        },
    }


def _activations(config: Config, device: str) -> int:
    """Bytes kept for the backward pass of one micro-batch, with the head's chunk of logits.

    Counted from the PyTorch model as it runs on a CPU without compilation; a test compares it with what autograd saves.
    """
    model, width = config.model, _BYTES[config.train.dtype]
    hidden, inner = model.hidden_size, model.intermediate_size
    shared = model.key_value_heads * model.head_dim
    norm = 4 * (2 * hidden + 1)  # float32: the input, the normed input, one scale
    token = norm + width * hidden  # the last norm and its output
    for layer in range(model.num_hidden_layers):
        parts = layer_projections(config, layer)
        bottlenecks = sum(each.saved_per_token() for each in parts)
        attention = 4 * hidden + 2 * shared  # normed input, rotated q and k, v, output and its copy for o_proj
        opened = 4 if gate_is_activated(config, parts[4]) else 3  # gate, its SiLU, up, their product
        token += width * (bottlenecks + attention + hidden + opened * inner)
        token += 2 * norm + 4 * model.num_attention_heads  # and the softmax's scales
    cast = 0
    if config.train.dtype != config.train.param_dtype:
        matrices = sum(each.parameters() for each in projections(config)) + vocabulary(config) * hidden
        cast = width * matrices
    tokens = config.train.micro_batch * config.data.seq_len
    logits = min(tokens * vocabulary(config), CPU_LOGITS if device.startswith("cpu") else ACCELERATOR_LOGITS)
    return tokens * token + cast + 8 * logits  # scores and softmax in float32, or one of them and two in bfloat16
