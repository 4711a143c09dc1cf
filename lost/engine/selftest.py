"""Self-test of a backend on a device: a tiny model compared with the numpy reference.

Logits with and without a cache, the loss, the gradients of every parameter, and three optimizer steps, for each kind of
projection, in float32 and in bfloat16; and one step with heads as wide as real models'. All of it goes through the
engine: the code that trains is the code tested.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import log_softmax

from lost.config import Config
from lost.data.batch import Batch
from lost.engine.base import Engine
from lost.engine.wide_heads import WIDTHS, WideHeads
from lost.model import reference
from lost.model.init import initial_values
from lost.model.parameters import parameter_table
from lost.optim import optimizer_of, state_shapes
from lost.optim.adamw import MOMENTS
from lost.projections import KINDS, Projection

# Largest error allowed: absolute for logits and losses, relative in norm for arrays. Measured on an x86 CPU: 3e-6 and
# 0.14, the latter in one gradient of a model so narrow that rounding to bfloat16's 8 bits doesn't average out.
ALLOWED = {
    "float32": dict.fromkeys(("logits", "evaluation", "gradients", "losses", "weights"), 1e-5),
    "bfloat16": {"logits": 0.05, "evaluation": 0.02, "gradients": 0.25, "losses": 0.03, "weights": 0.1},
}
STEPS = 3
_MODEL = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 11,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        kind: of projection; or `head 64`, attention with heads so wide.
        dtype: of the engine's computation; its weights stay float32.
        quantity: that was compared: logits, evaluation, gradients, or the losses of three steps and the weights after.
        error: absolute for logits and losses, else relative in norm, the largest over all arrays.
    """

    kind: str
    dtype: str
    quantity: str
    error: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit; NaN never is."""
        return self.error <= ALLOWED[self.dtype][self.quantity]


def kinds_tested() -> list[str]:
    """Return the kinds of projection that are tested: but for those whose layers another one's test is of."""
    return [kind for kind, own in KINDS.items() if not _is_tested_by(own, own.computes_as)]


def _is_tested_by(own: type[Projection], kind: str | None) -> bool:
    """Whether a kind is tested itself and has these layers; an extension that derives from one may have its own."""
    return kind is not None and kind in KINDS and KINDS[kind].computes_as is None and KINDS[kind].layers == own.layers


def self_test(create: Callable[[Config], Engine]) -> Iterator[Check]:
    """Yield every check, of engines that `create` makes."""
    for kind in kinds_tested():
        expected = ReferenceRun.of(kind)
        for dtype in ALLOWED:
            for quantity, error in expected.errors(create(expected.config.replace("train", dtype=dtype))):
                yield Check(kind, dtype, quantity, error)
    for width in WIDTHS:
        wide = WideHeads(width)
        for dtype in ALLOWED:
            for quantity, error in wide.errors(create(wide.config.replace("train", dtype=dtype))):
                yield Check(f"head {width}", dtype, quantity, error)


class ReferenceRun:
    """The reference's results, in float64 by finite differences: slow, so computed once for all devices and types."""

    @classmethod
    @cache
    def of(cls, kind: str) -> "ReferenceRun":
        """Return the expected results for a kind of projection."""
        return cls(
            Config.model_validate(
                {
                    "model": _MODEL,
                    "projection": {"kind": kind, "rank": 3, "density": 0.3, "align": 1, "alpha": 3.0},
                    "data": {"seq_len": 9},
                    "train": {"batch_size": 4, "micro_batch_size": 2, "grad_clip": 0.5},
                    "optimizer": {"lr": 1e-2, "weight_decay": 0.1},
                    "schedule": {"steps": STEPS},
                }
            )
        )

    def __init__(self, config: Config, steps: int = STEPS) -> None:
        self.config, random = config, np.random.default_rng(0)
        size, std = config.model.vocab_size or 0, config.model.initializer_range
        self.start = {  # arrays that start at zero would give others zero gradients, which test nothing
            name: value if value.any() else _in_place_of_zeros(name, value.shape, std, random)
            for name, value in initial_values(config)
        }
        self.batches = [random.integers(0, size, (4, config.data.seq_len + 1)).astype(np.int32) for _ in range(steps)]
        self.prompt = [int(token) for token in random.integers(0, size, 5)]
        self.weights = {
            name: value if value.dtype == np.int32 else value.astype(np.float64) for name, value in self.start.items()
        }
        self.logits = self._continue()
        self.losses: list[float] = []
        self.moments = {name: np.zeros(shape) for name, shape in state_shapes(config).items()}
        self.first_moments: dict[str, np.ndarray] = {}
        for number, tokens in enumerate(self.batches, 1):
            self._step(number, tokens)
            if number == 1:
                self.first_moments = {name: value.copy() for name, value in self.moments.items()}

    def _continue(self) -> list[np.ndarray]:
        """Return the log-probabilities of four greedy tokens after the prompt."""
        tokens, results = list(self.prompt), []
        for _ in range(4):
            results.append(log_softmax(reference.logits(self.config, self.weights, np.array([tokens]))[0, -1]))
            tokens.append(int(results[-1].argmax()))
        return results

    def _step(self, number: int, tokens: np.ndarray) -> None:
        """Apply one update, with clipping."""
        table, optimizer = parameter_table(self.config), optimizer_of(self.config)
        self.losses.append(reference.loss(self.config, self.weights, tokens))
        gradients = reference.gradients(self.config, self.weights, tokens)
        norm = sum(float((gradient**2).sum()) for gradient in gradients.values()) ** 0.5
        clipped = {
            name: gradient * min(1.0, self.config.train.grad_clip / norm) for name, gradient in gradients.items()
        }
        states = {
            name: {array: self.moments[f"{name}.{array}"] for array in optimizer.shapes(table[name])}
            for name in clipped
        }
        self.weights |= optimizer.step(table, self.weights, clipped, states, self.config.optimizer.lr, number)

    def errors(self, engine: Engine) -> Iterator[tuple[str, float]]:
        """Yield an engine's errors, by quantity."""
        engine.load(self.start.items())
        yield "logits", self._logits_error(engine)
        losses = []
        for number, tokens in enumerate(self.batches):
            parts = [Batch(tokens[:2]), Batch(tokens[2:])]
            nll, count = engine.evaluate(parts)
            if number == 0:
                yield "evaluation", abs(nll / count - self.losses[0])
            losses.append(engine.step(parts, count, self.config.optimizer.lr).wait()[0])
            if number == 0:
                first = {name: value for name, value in engine.optimizer_state() if name.endswith(MOMENTS[0])}
                yield "gradients", _worst(first, self.first_moments)
        yield "losses", float(np.abs(np.subtract(losses, self.losses)).max())
        moved = {name: value for name, value in engine.dump() if value.dtype != np.int32}
        yield "weights", _worst(moved, self.weights)

    def _logits_error(self, engine: Engine) -> float:
        """Compare the first token after the whole prompt, and three more, each computed with the cache."""
        results: list[np.ndarray] = []

        def choose(scores: np.ndarray) -> int:
            results.append(log_softmax(scores.astype(np.float64)))
            return int(self.logits[min(len(results), len(self.logits)) - 1].argmax())  # the reference's path

        list(engine.generate(self.prompt, choose, len(self.logits)))
        return max(float(np.abs(own - expected).max()) for own, expected in zip(results, self.logits, strict=False))


def _in_place_of_zeros(name: str, shape: tuple[int, ...], std: float, random: np.random.Generator) -> np.ndarray:
    """Return random values; of a core a diagonal, which doesn't turn what is between orthonormal sides.

    With random ones logits were off by 0.11 in bfloat16, in both backends, and in float32 by 2e-6.
    """
    if name.endswith(".core"):
        return (std * (np.eye(*shape) if len(shape) == 2 else np.ones(shape))).astype(np.float32)
    return random.normal(0, std, shape).astype(np.float32)


def _worst(results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    errors = [
        np.linalg.norm(value.astype(np.float64) - expected[name]) / np.linalg.norm(expected[name])
        for name, value in results.items()
    ]
    return float(np.max(errors))  # NaN if one of them is
