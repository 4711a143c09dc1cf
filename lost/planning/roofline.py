"""The roofline of one card: how fast a training step could be, from its products' FLOPs and its tensors' bytes.

An estimate of the best case: a compiled step in which every kernel is bound either by arithmetic or by memory's
bandwidth, and reaches a stated share of the card's peak. What isn't counted: launches, gaps, kernels that don't exist.

Where Muon or its kin orthogonalizes, its products are counted once a step, in their own type. A matrix of n columns and
q n rows takes (4 q + 14) n^3 multiply-adds in float32, (10 q + 5) n^3 in bfloat16 (`RUNS` of `lost.optim.muon`).
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from lost.config import DTYPE_BYTES, Config
from lost.model.adapted import dense_twin
from lost.model.parameters import parameter_table, projections, vocabulary
from lost.optim import optimizer_of
from lost.optim.muon import RUNS
from lost.planning.alignment import product_sizes
from lost.planning.budget import budget
from lost.planning.peak_flops import peak_flops

_PER_LOGIT = 40  # bytes: chunks of logits, their softmax and gradient, unfused
_PER_UPDATE = 40  # bytes a parameter: its norm's share, clipping, AdamW on weight, gradient and two moments


@dataclass(frozen=True)
class Card:
    """A device; the defaults are an H100's (SXM), from its data sheet, and guesses of what kernels reach.

    Attributes:
        peak_flops: of matrix products, a second.
        bandwidth: of its memory, bytes a second.
        flops_share: of the peak that a product reaches.
        bandwidth_share: of the bandwidth that an elementwise kernel reaches.
    """

    peak_flops: float
    bandwidth: float = 3.35e12
    flops_share: float = 0.8
    bandwidth_share: float = 0.9

    def seconds(self, flops: float, size: float) -> float:
        """Return the time of a kernel that computes `flops` and moves `size` bytes: the longer of both."""
        return max(flops / (self.peak_flops * self.flops_share), size / (self.bandwidth * self.bandwidth_share))


def card_for(config: Config, tflops: float | None = None, bandwidth: float | None = None) -> Card:
    """Return a card by its peak in TFLOP/s and its memory's bandwidth in GB/s; an H100 where they are left out."""
    peak = tflops * 1e12 if tflops else _of_an_h100(config.train.product_dtype)
    return Card(peak, bandwidth * 1e9) if bandwidth else Card(peak)


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step on one card, by what takes them.

    Attributes:
        products: of the projections and the head, forward and backward.
        attention: its kernels.
        elementwise: norms, rotations, activations, sums; and the head's loss.
        weights: casts, sums of gradients, the update but for what makes it orthogonal.
        orthogonalizing: that, by Newton-Schulz.
        tokens: of the step on this card.
        flops: as model FLOPs are counted, so without recomputation.
    """

    products: float
    attention: float
    elementwise: float
    weights: float
    orthogonalizing: float
    tokens: int
    flops: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.products + self.attention + self.elementwise + self.weights + self.orthogonalizing

    @property
    def tokens_per_second(self) -> float:
        """The ceiling of this card."""
        return self.tokens / self.seconds

    def mfu(self, card: Card) -> float:
        """Return the model FLOPs utilization: the share of the peak."""
        return self.flops / self.seconds / card.peak_flops


def step_on_a_card(config: Config, card: Card, micro_batch: int, local_batch: int, shards: int = 1) -> Step | None:
    """Return the best step of a card; None: a projection's elementwise work isn't known.

    Args:
        config: its vocabulary known.
        card: the device.
        micro_batch: sequences in memory at once.
        local_batch: sequences a step of this card.
        shards: cards that share one copy of the model; each updates its part.
    """
    between = _between_products(config)
    if between is None:
        return None
    model, width, length = config.model, DTYPE_BYTES[config.train.compute_dtype], config.data.seq_len
    tokens, parts = micro_batch * length, local_batch // micro_batch
    # Forward, gradient of the input, gradient of the weight: the same two sides and `tokens` in other places.
    products = 3 * sum(
        card.seconds(2 * tokens * rows * columns, width * (tokens * (rows + columns) + rows * columns))
        for rows, columns in product_sizes(config)
    )
    # Kept channels are rows of the products that give inputs' gradients; that these rows are written isn't counted.
    products += card.seconds(2 * tokens * sum(part.channels * part.in_features for part in projections(config)), 0)
    queries, shared = model.attention_width, model.key_value_heads * model.head_width
    # Causal, so half of the window; the backward pass has five products where the forward pass has two. Reads q, k, v,
    # writes the output; then reads these four and its gradient, writes three.
    attention = model.num_hidden_layers * card.seconds(
        7 * tokens * length * queries, width * tokens * ((2 * queries + 2 * shared) + (4 * queries + 4 * shared))
    )
    elements = model.num_hidden_layers * _elements(config) + between
    elementwise = card.seconds(0, tokens * (width * elements + _PER_LOGIT * vocabulary(config)))
    trained = sum(row.size for row in parameter_table(config).values() if row.trained)
    stored = DTYPE_BYTES[config.train.param_dtype]
    anew = sum(each.parameters() for each in projections(config) if "torch" in each.recasts)
    cast = (stored + width) * (trained + anew) if stored != width else 0  # for the forward pass, or for each
    summed = (width + 3 * stored) * trained if parts > 1 else 0  # a gradient as it is computed, added to the sum so far
    weights = card.seconds(0, parts * (cast + summed) + _PER_UPDATE * trained / shards)
    return Step(
        products=parts * products,
        attention=parts * attention,
        elementwise=parts * elementwise,
        weights=weights,
        orthogonalizing=_orthogonalizing(config, card, shards),
        tokens=local_batch * length,
        flops=budget(config).flops_per_token * local_batch * length,
    )


def report(config: Config, card: Card) -> dict[str, Any]:
    """Return `roofline` of `lost plan --json`: the ceilings of one card, of the run and of its dense twin.

    Args:
        config: its vocabulary and its micro-batch known.
        card: the device; the dense twin has the same micro-batch on it, whether it would fit or not.
    """
    figures = []
    for each in (config, dense_twin(config)):
        step = step_on_a_card(each, card, each.train.micro_batch, each.train.batch_size)
        figures.append({"tokens_per_second": step.tokens_per_second, "mfu": step.mfu(card)} if step else {})
    return {**asdict(card), "micro_batch_size": config.train.micro_batch, **figures[0], "dense": figures[1]}


def _of_an_h100(dtype: str) -> float:
    peak = peak_flops("H100", dtype)
    assert peak  # it is known
    return peak


def _orthogonalizing(config: Config, card: Card, shards: int) -> float:
    """Return the seconds in which a card orthogonalizes its share of the matrices.

    Its peak in their type is to that of the model's as an H100's are.
    """
    train, dtype = config.train, config.optimizer.orthogonalize_dtype
    product = "tf32" if (dtype, train.matmul_precision) == ("float32", "high") else dtype
    faster = _of_an_h100(product) / _of_an_h100(train.product_dtype)
    card = replace(card, peak_flops=faster * card.peak_flops)
    runs, width, seconds = RUNS if dtype == "float32" else (1,) * sum(RUNS), DTYPE_BYTES[dtype], 0.0
    for shape, count in optimizer_of(config).orthogonalized(parameter_table(config)).items():
        short, long = sorted(shape)
        tall = card.seconds(2 * long * short**2, width * (2 * long * short + short**2))  # x^T x, or x by what it gives
        square = card.seconds(2 * short**3, width * 3 * short**2)
        seconds += -(-count // shards) * sum(2 * tall + (4 * run - 3) * square for run in runs)
    return seconds


def _between_products(config: Config) -> int | None:
    """Count the elements per token that elementwise kernels inside of projections read and write; None: not known."""
    total = 0
    for each in projections(config):
        count = each.elementwise_per_token()
        if count is None:
            return None
        total += count
    return total


def _elements(config: Config) -> int:
    """Count the elements per token that a block's other elementwise kernels read and write, forward and backward.

    As compiled: residual sums are part of the norms' kernels, sums of input gradients part of their backward passes.
    """
    model = config.model
    hidden, inner = model.hidden_size, model.intermediate_size
    rotated = model.attention_width + model.key_value_heads * model.head_width
    norms = 8 * hidden + 8 * hidden + 3 * hidden  # two of them; the last: q, k, v and gate, up each bring a gradient
    swiglu = 3 * inner + 5 * inner  # gate, up, product; its gradient, gate, up, their gradients
    return norms + 4 * rotated + swiglu
