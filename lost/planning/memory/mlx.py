"""MLX's memory beside weights, gradients and the optimizer's state."""

import os
from functools import cache
from importlib.metadata import PackageNotFoundError

from lost.config import DTYPE_BYTES, Config, TrainConfig
from lost.model.parameters import gate_is_activated, layer_projections, vocabulary
from lost.planning.memory.logits import logits_at_once
from lost.planning.memory.shared import largest_turn, recast, saved_of_norms
from lost.utils.extras import version_of

# How far it computes ahead of what it frees, fitted to its peaks on a CPU (benchmarks/mlx_memory.py): in blocks
# without their projections, and in chunks of logits.
_AHEAD, _CHUNKS_AHEAD = {"none": 1.5, "narrow": 2.2, "full": 2.7}, 2.75
# Widths of heads for which training on Metal makes no attention scores, since this version (by its source).
FUSED_WIDTHS, _FUSED_SINCE = {64, 72, 80, 96, 128, 192, 256}, (0, 32, 4)


def activations(config: Config, device: str, micro_batch: int) -> int:
    """Count the bytes that MLX saves for the backward pass of one micro-batch, and what it holds beside them at most.

    In addition to what PyTorch saves: attention's softmax where it isn't fused; on a CPU SiLU's sigmoid, here and in
    projections. A test compares this with MLX's peak on a CPU.
    """
    keeps = device == "cpu"  # what an activation computes, for its backward pass
    fused = device == "gpu" and config.model.head_width in FUSED_WIDTHS and fuses()
    scores = 1 if fused else config.data.seq_len  # of a head and a token; fused, a scale
    model, width, policy = config.model, DTYPE_BYTES[config.train.compute_dtype], config.train.checkpoint_activations
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, shared = model.attention_width, model.key_value_heads * model.head_width
    norm = (4 + width) * hidden  # its input in float32, and its output
    whole, narrow = [], []  # bytes per token that a block saves under the policies `none` and `narrow`
    others = 0  # those of a block without its projections
    for layer in range(model.num_hidden_layers):
        parts = layer_projections(config, layer)
        saved = [part.saved_per_token() + part.saved_beside("mlx", device) for part in parts]
        attention = 3 * queries + 2 * shared + model.num_attention_heads * scores
        if model.use_qk_norm:
            attention += queries + shared  # q and k before it
        opened = 4 if keeps and gate_is_activated(config, parts[4]) else 2  # gate, (its sigmoid and SiLU,) up
        opened += parts[6].keeps_input  # their product
        others = max(others, 2 * norm + width * (attention + opened * inner))
        read = saved_of_norms(parts, hidden) - 2 * hidden  # norms' outputs that nothing saves
        whole.append(2 * norm + width * (read + sum(saved) + attention + opened * inner))
        first = sum(part.narrow_per_token() for number, part in enumerate(parts) if number not in (3, 6))
        narrow.append(width * (2 * hidden + first + saved[3] + saved[6]))  # second halves aren't checkpointed
    token = norm + sum({"none": whole, "narrow": narrow, "full": [width * hidden for _ in whole]}[policy])
    cast = 0
    if config.train.compute_dtype != config.train.param_dtype:
        # Matrices in the type that they are computed in, and their gradients before they are cast; the head.
        cast = width * (2 * recast(config, "mlx") + vocabulary(config) * hidden)
    tokens = micro_batch * config.data.seq_len
    # The head's loss, whose logits are freed by the time that a block's backward pass runs; the larger is the peak.
    head = 16 * min(tokens * vocabulary(config), int(_CHUNKS_AHEAD * logits_at_once("mlx", device)))
    return tokens * token + cast + max(head, int(tokens * _AHEAD[policy] * others))


def update(config: Config, device: str, trained: int) -> int:
    """Count the bytes that MLX's update takes: new memory for weights and moments, and Muon's turns.

    Fitted to its peaks on a CPU. More is held at once where a step is compiled; products of one turn too, as memory is
    taken before they are computed.

    Args:
        config: its vocabulary known.
        device: as the backend names it.
        trained: bytes of what is trained.
    """
    turn = largest_turn(config, 1, {"float32": (2.5, 20.0), "bfloat16": (1.25, 10.0)})
    return int((2.8 if turn and compiles(config.train, device) else 1.4) * trained) + turn


def compiles(train: TrainConfig, device: str) -> bool:
    """Return whether a step is compiled: by default on a GPU."""
    return device == "gpu" if train.compile is None else train.compile


@cache
def fuses() -> bool:
    """Return whether attention's backward pass is fused by the MLX installed here, or the newest where there is none.

    `MLX_SDPA_VJP_FALLBACK=1` in the environment switches it off.
    """
    if os.environ.get("MLX_SDPA_VJP_FALLBACK", "0") != "0":
        return False
    try:
        return version_of("mlx") >= _FUSED_SINCE
    except PackageNotFoundError:
        return True
