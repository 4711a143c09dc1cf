"""Attention with heads as wide as real models' over more tokens than a tile: what fused kernels take over from.

The tiny models of the self-test never reach those kernels. Losses and gradients are compared with the numpy reference.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np

from lost.config import Config
from lost.data.batch import Batch
from lost.engine.base import Engine
from lost.model import reference
from lost.model.init import initial_values
from lost.optim.adamw import MOMENTS

WIDTHS = (64, 128)
_TOKENS, _STEP = 136, 1e-4


class WideHeads:
    """A dense model with grouped queries, its heads `width` wide, and one batch."""

    def __init__(self, width: int) -> None:
        sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 32}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": width}
        self.config = Config.model_validate(
            {
                "model": {**sizes, **heads, "max_position_embeddings": _TOKENS, "initializer_range": 0.1},
                "projection": {"kind": "dense"},
                "data": {"seq_len": _TOKENS},
                "train": {"batch_size": 2, "micro_batch_size": 2, "grad_clip": 0.0},
                "schedule": {"steps": 1},
            }
        )
        self.start = dict(initial_values(self.config))
        self._weights = {name: value.astype(np.float64) for name, value in self.start.items()}
        self._tokens = np.random.default_rng(0).integers(0, 32, (2, _TOKENS + 1)).astype(np.int32)

    def errors(self, engine: Engine) -> Iterator[tuple[str, float]]:
        """Yield an engine's errors: of its loss, absolute; of its gradients, relative, the largest over all arrays."""
        engine.load(self.start.items())
        batch = Batch(self._tokens)
        nll, count = engine.evaluate([batch])
        yield "evaluation", abs(nll / count - self._loss)
        engine.step([batch], count, 1e-3).wait()
        moments, share = dict(engine.optimizer_state()), 1 - self.config.optimizer.betas[0]
        found = {name: moments[f"{name}.{MOMENTS[0]}"].astype(np.float64) / share for name in self.start}
        yield "gradients", float(np.max([self._slope_error(name, found) for name in found]))

    @cached_property
    def _loss(self) -> float:
        return reference.loss(self.config, self._weights, self._tokens)

    def _slope_error(self, name: str, gradients: Mapping[str, np.ndarray]) -> float:
        """Compare a gradient's length with the reference's slope along it: an exact one is the steepest way."""
        length = np.linalg.norm(gradients[name])
        ahead, behind = (
            reference.loss(
                self.config,
                {**self._weights, name: self._weights[name] + step * gradients[name] / length},
                self._tokens,
            )
            for step in (_STEP, -_STEP)
        )
        return float(abs((ahead - behind) / (2 * _STEP) - length) / length)
