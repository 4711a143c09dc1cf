"""The budget of a run: parameters, FLOPs per token and memory, compared with a dense model's."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lost.config import Config
from lost.distributed.group import local_batch_size, model_shards
from lost.model.adapted import unquantized
from lost.model.parameters import (
    EMBEDDING,
    HEAD,
    gate_is_activated,
    layer_projections,
    parameter_table,
    projections,
    vocabulary,
)
from lost.optim import KINDS, optimizer_of
from lost.optim.muon import Muon, at_once, shapes_orthogonalized
from lost.projections import Projection

_BYTES = {"float32": 4, "bfloat16": 2}
# Logits in a chunk of the head's loss. PyTorch on a CPU is within 7 % of its fastest at 64 MiB of float32, in both
# shapes of benchmarks/head_loss.py. MLX on a CPU loses time below 32 MiB where the vocabulary is large
# (benchmarks/mlx_choices.py). Unmeasured on accelerators: large products keep them busy, and a Mac's memory is shared.
_LOGITS = {
    "torch cpu": 1 << 24,
    "torch mps": 1 << 25,
    "torch cuda": 1 << 27,
    "mlx cpu": 1 << 23,
    "mlx gpu": 1 << 24,
}
# How far MLX computes ahead of what it frees, fitted to its peaks on a CPU (benchmarks/mlx_memory.py): in blocks
# without their projections, and in chunks of logits.
_AHEAD, _CHUNKS_AHEAD = {"none": 1.5, "narrow": 2.2, "full": 2.7}, 2.75
# Widths of heads for which MLX's training on Metal makes no attention scores, since this version (by its source).
FUSED_WIDTHS, _FUSED_SINCE = {64, 72, 80, 96, 128, 192, 256}, (0, 32, 4)
CAST_ANEW = ("lost", "sltrain")  # kinds whose passes in PyTorch cast the weights each time, and keep no casts


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
    width = _BYTES[config.train.param_dtype]
    at_once = micro_batch or config.train.micro_batch
    activations = _mlx_activations if backend == "mlx" else _torch_activations
    # MLX holds the sum so far in addition to the gradients that are added to it; PyTorch where it measures their noise.
    apart = backend == "mlx" or config.train.noise_scale_every > 0
    sums = 2 if apart and at_once < (local_batch or config.train.batch_size) else 1
    # PyTorch's head makes its gradient beside the sum so far.
    summed = not output.frozen and at_once < (local_batch or config.train.batch_size)
    beside = head * width if backend == "torch" and summed else 0
    if backend == "torch":  # which unpacks a weight of few bits to integers, and from them to float32
        beside += 8 * max((each.in_features * each.out_features for each in inside if _is_packed(each)), default=0)
    # The update takes its memory when activations are freed already.
    update = _mlx_update(config, device, trained * width) if backend == "mlx" else _torch_update(config, shards)
    # What a worker holds gathered: embedding and head, two blocks at a time, and their gradients; or everything.
    whole_weights = whole_gradients = 0
    if shards > 1:
        computed, blocks = _BYTES[config.train.compute_dtype], model.num_hidden_layers
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
            activations=max(activations(config, device, at_once) + beside, update),
        ),
    )


def _is_packed(projection: Projection) -> bool:
    return any(tensor.bits for tensor in projection.tensors().values())


def logits_at_once(backend: str, device: str) -> int:
    """Return the number of logits in a chunk of the head's loss."""
    return _LOGITS[f"{backend} {device.partition(':')[0]}"]


def devices_of(backend: str) -> list[str]:
    """Return the kinds of device that a backend's runs can be planned for, a CPU first, what trains fastest last."""
    return [key.partition(" ")[2] for key in _LOGITS if key.startswith(f"{backend} ")]


def dense_twin(config: Config) -> Config:
    """Return the configuration with every projection dense."""
    return config.replace("projection", kind="dense", overrides={})


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


def _torch_activations(config: Config, device: str, micro_batch: int) -> int:
    """Count the bytes that PyTorch saves for the backward pass of one micro-batch, and what the head's loss takes.

    Counted for the model as it runs on a CPU without compilation; a test compares this with what autograd saves.
    """
    model, width, policy = config.model, _BYTES[config.train.compute_dtype], config.train.checkpoint_activations
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, shared = model.attention_width, model.key_value_heads * model.head_width
    own_input = width if device == "cpu" else 4  # of a norm: elsewhere its float32 copy
    norm = own_input * hidden + 4
    # Bytes per token: what a block saves, what it saves under `narrow`, and the most that is recomputed at a time.
    whole, narrow, rebuilt = [], [], []
    for layer in range(model.num_hidden_layers):
        parts = layer_projections(config, layer)
        saved = [part.saved_per_token() for part in parts]
        first = sum(part.narrow_per_token() for number, part in enumerate(parts) if number not in (3, 6))
        repeated = device.startswith("cuda") and width == 4  # keys and values, for float32
        attention = width * (2 * queries + 2 * (queries if repeated else shared))  # rotated q and k, v, output
        if model.use_qk_norm:
            attention += own_input * (queries + shared) + 4 * (model.num_attention_heads + model.key_value_heads)
        opened = width * (2 + parts[6].keeps_input) * inner  # gate, up, their product
        scales = 4 * model.num_attention_heads  # of the softmax
        whole.append(2 * norm + width * (_read(parts, hidden) + sum(saved)) + attention + opened + scales)
        narrow.append(width * (2 * hidden + first + saved[3] + saved[6]))  # second halves aren't checkpointed
        rebuilt.append(max(attention, opened) + width * sum(saved))
    blocks = {
        "none": whole,
        "narrow": [*narrow, max(rebuilt)],
        "full": [*(width * hidden for _ in whole), max(whole)],
    }[policy]
    token = norm + width * hidden + sum(blocks)  # the last norm and its output
    cast = 0
    if config.train.compute_dtype != config.train.param_dtype:
        head = 2 * vocabulary(config) * hidden  # its weight, and a chunk's part of its gradient
        cast = width * ((_recast(config, CAST_ANEW) if policy == "none" else 0) + head)
    tokens = micro_batch * config.data.seq_len
    logits = min(tokens * vocabulary(config), logits_at_once("torch", device))
    # A chunk of logits and its input, scaled; the gradient of all inputs.
    loss = (4 if width == 4 else 6) * logits + width * hidden * (logits // vocabulary(config) + tokens)
    return tokens * token + cast + loss


def _mlx_activations(config: Config, device: str, micro_batch: int) -> int:
    """Count the bytes that MLX saves for the backward pass of one micro-batch, and what it holds beside them at most.

    In addition to what PyTorch saves: attention's softmax where it isn't fused; on a CPU SiLU's sigmoid, here and in
    projections. A test compares this with MLX's peak on a CPU.
    """
    keeps = device == "cpu"  # what an activation computes, for its backward pass
    fused = device == "gpu" and config.model.head_width in FUSED_WIDTHS and _mlx_fuses()
    scores = 1 if fused else config.data.seq_len  # of a head and a token; fused, a scale
    model, width, policy = config.model, _BYTES[config.train.compute_dtype], config.train.checkpoint_activations
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, shared = model.attention_width, model.key_value_heads * model.head_width
    norm = (4 + width) * hidden  # its input in float32, and its output
    whole, narrow = [], []  # bytes per token that a block saves under the policies `none` and `narrow`
    others = 0  # those of a block without its projections
    for layer in range(model.num_hidden_layers):
        parts = layer_projections(config, layer)
        saved = [part.saved_per_token() + (part.settings.rank if _beside(part, device) else 0) for part in parts]
        attention = 3 * queries + 2 * shared + model.num_attention_heads * scores
        if model.use_qk_norm:
            attention += queries + shared  # q and k before it
        opened = 4 if keeps and gate_is_activated(config, parts[4]) else 2  # gate, (its sigmoid and SiLU,) up
        opened += parts[6].keeps_input  # their product
        others = max(others, 2 * norm + width * (attention + opened * inner))
        read = _read(parts, hidden) - 2 * hidden  # norms' outputs that nothing saves
        whole.append(2 * norm + width * (read + sum(saved) + attention + opened * inner))
        first = sum(part.narrow_per_token() for number, part in enumerate(parts) if number not in (3, 6))
        narrow.append(width * (2 * hidden + first + saved[3] + saved[6]))  # second halves aren't checkpointed
    token = norm + sum({"none": whole, "narrow": narrow, "full": [width * hidden for _ in whole]}[policy])
    cast = 0
    if config.train.compute_dtype != config.train.param_dtype:
        # Matrices in the type that they are computed in, and their gradients before they are cast; the head.
        cast = width * (2 * _recast(config) + vocabulary(config) * hidden)
    tokens = micro_batch * config.data.seq_len
    # The head's loss, whose logits are freed by the time that a block's backward pass runs; the larger is the peak.
    head = 16 * min(tokens * vocabulary(config), int(_CHUNKS_AHEAD * logits_at_once("mlx", device)))
    return tokens * token + cast + max(head, int(tokens * _AHEAD[policy] * others))


def _beside(part: Projection, device: str) -> bool:
    """Whether MLX saves a bottleneck more than PyTorch: on a CPU a sigmoid; what a kernel reads on Metal."""
    if device == "cpu":
        return part.has_activation
    return part.settings.kind == "lost" and not part.has_activation and not part.earlier_tokens


def _read(parts: Sequence[Projection], hidden: int) -> int:
    """Count the elements per token of both norms' outputs in a block that projections save."""
    return sum(hidden for group in (parts[:3], parts[4:6]) if any(each.keeps_input for each in group))


def _recast(config: Config, but: Sequence[str] = ()) -> int:
    """Count the entries of projections, `but` of some kinds, that are stored in another type than is computed with."""
    rows = parameter_table(config)
    inside = [each for each in projections(config) if each.settings.kind not in but]
    held = [rows[f"{each.name}.{suffix}"] for each in inside for suffix in each.tensors()]
    return sum(row.size for row in held if not row.integer and row.dtype != config.train.compute_dtype)


def _torch_update(config: Config, shards: int) -> int:
    """Count the bytes that PyTorch's update takes beside what is held: Muon's, for the matrices of its largest turn.

    Fitted to its peaks on a CPU. The nearer a matrix is to a square, the larger are the Gram matrices beside it.
    """
    return _largest_turn(config, shards, {"float32": (3.0, 3.0), "bfloat16": (2.9, 0.75)})


def _mlx_update(config: Config, device: str, trained: int) -> int:
    """Count the bytes that MLX's update takes: new memory for weights and moments, and Muon's turns.

    Fitted to its peaks on a CPU. More is held at once where a step is compiled; products of one turn too, as memory is
    taken before they are computed.

    Args:
        config: its vocabulary known.
        device: as the backend names it.
        trained: bytes of what is trained.
    """
    compiled = config.train.compile if config.train.compile is not None else device == "gpu"
    turn = _largest_turn(config, 1, {"float32": (2.5, 20.0), "bfloat16": (1.25, 10.0)})
    return int((2.8 if turn and compiled else 1.4) * trained) + turn


def _largest_turn(config: Config, shards: int, fits: Mapping[str, tuple[float, float]]) -> int:
    """Count the bytes of the matrices that Muon orthogonalizes at a time, and of what it makes of them; else 0.

    Args:
        config: its vocabulary known.
        shards: workers that share them.
        fits: bytes beside a byte of a matrix in float32, and how many more where it is square, by the type of products.
    """
    settings = config.optimizer
    if not issubclass(KINDS[settings.name], Muon):
        return 0
    plain, square = fits[settings.orthogonalize_dtype]
    turns = [
        min(-(-count // shards), at_once(shape, 1)) * 4 * math.prod(shape) * (plain + square * min(shape) / max(shape))
        for shape, count in shapes_orthogonalized(parameter_table(config), settings.split_up).items()
    ]
    return int(max(turns, default=0))


@cache
def _mlx_fuses() -> bool:
    """Return whether attention's backward pass is fused by the MLX installed here, or the newest where there is none.

    `MLX_SDPA_VJP_FALLBACK=1` in the environment switches it off.
    """
    if os.environ.get("MLX_SDPA_VJP_FALLBACK", "0") != "0":
        return False
    try:
        return tuple(map(int, re.findall(r"\d+", version("mlx"))[:3])) >= _FUSED_SINCE
    except PackageNotFoundError:
        return True
