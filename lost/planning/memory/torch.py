"""PyTorch's memory beside weights, gradients and the optimizer's state."""

from lost.config import DTYPE_BYTES, Config
from lost.model.parameters import layer_projections, vocabulary
from lost.planning.memory.logits import logits_at_once
from lost.planning.memory.shared import largest_turn, recast, saved_of_norms


def activations(config: Config, device: str, micro_batch: int) -> int:
    """Count the bytes that PyTorch saves for the backward pass of one micro-batch, and what the head's loss takes.

    Counted for the model as it runs on a CPU without compilation; a test compares this with what autograd saves.
    """
    model, width, policy = config.model, DTYPE_BYTES[config.train.compute_dtype], config.train.checkpoint_activations
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, shared = model.attention_width, model.key_value_heads * model.head_width
    own_input = width if device == "cpu" else 4  # of a norm: elsewhere its float32 copy
    norm = own_input * hidden + 4
    # Bytes per token: what a block saves, what it saves under `narrow`, and the most that is recomputed at a time.
    whole, narrow, rebuilt = [], [], []
    for layer in range(model.num_hidden_layers):
        parts = layer_projections(config, layer)
        saved = [part.saved_per_token() + part.saved_beside("torch", device) for part in parts]
        first = sum(part.narrow_per_token() for number, part in enumerate(parts) if number not in (3, 6))
        repeated = device.startswith("cuda") and width == 4  # keys and values, for float32
        attention = width * (2 * queries + 2 * (queries if repeated else shared))  # rotated q and k, v, output
        if model.use_qk_norm:
            attention += own_input * (queries + shared) + 4 * (model.num_attention_heads + model.key_value_heads)
        opened = width * (2 + parts[6].keeps_input) * inner  # gate, up, their product
        scales = 4 * model.num_attention_heads  # of the softmax
        whole.append(2 * norm + width * (saved_of_norms(parts, hidden) + sum(saved)) + attention + opened + scales)
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
        cast = width * ((recast(config, "torch") if policy == "none" else 0) + head)
    tokens = micro_batch * config.data.seq_len
    logits = min(tokens * vocabulary(config), logits_at_once("torch", device))
    # A chunk of logits and its input, scaled; the gradient of all inputs.
    loss = (4 if width == 4 else 6) * logits + width * hidden * (logits // vocabulary(config) + tokens)
    return tokens * token + cast + loss


def update(config: Config, shards: int) -> int:
    """Count the bytes that PyTorch's update takes beside what is held: Muon's, for the matrices of its largest turn.

    Fitted to its peaks on a CPU. The nearer a matrix is to a square, the larger are the Gram matrices beside it.
    """
    return largest_turn(config, shards, {"float32": (3.0, 3.0), "bfloat16": (2.9, 0.75)})
