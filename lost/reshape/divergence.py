"""How far a compressed model is from the dense one: what it says of the next token, on a calibration text."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from lost.config import Config
from lost.data.batch import Batch
from lost.engine import Engine, backend_module
from lost.method.levels import Level, Levels
from lost.model.parameters import vocabulary
from lost.storage.arrays import NamedArrays

_ENTRIES = 256  # of the vocabulary, the dense model's likeliest ones; the others count as one
_MOST_SAMPLES = 64


class Divergence:
    """Mean Kullback-Leibler divergence of models' next tokens from the dense model's, in nats a token.

    The dense model's likeliest entries count each for itself, all others together as one, so that the exact divergence
    is no less. One model is on the engine at a time.

    Args:
        engine: holds the dense model.
        parameters: the dense model's, anew with each call.
        levels: of each projection, by name.
        tokens: (n,) int32, of the calibration text.
        config: the dense model's; a sample has as many tokens as a sequence.
    """

    def __init__(
        self,
        engine: Engine,
        parameters: Callable[[], NamedArrays],
        levels: Mapping[str, Levels],
        tokens: np.ndarray,
        config: Config,
    ) -> None:
        self._engine, self._backend = engine, backend_module(engine.backend)
        self._parameters, self._levels = parameters, levels
        length = min(config.data.seq_len, len(tokens))
        last = len(tokens) - length
        count = min(_MOST_SAMPLES, len(tokens) // length)
        self._samples = [tokens[start : start + length] for start in np.linspace(0, last, count).astype(int)]
        # The last token of a batch is only predicted, and what it is doesn't matter here.
        batches = (Batch(np.append(each, np.int32(0))[None]) for each in self._samples)
        self._expected = list(engine.predict(batches, min(_ENTRIES, vocabulary(config)), 1.0))

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self._samples)

    def __call__(self, levels: Mapping[str, Level], samples: Iterable[int]) -> float:
        """Return the divergence of the model whose projections have these levels; those not named stay dense."""
        self._engine.load(self._composed(levels))
        found = []
        for number in samples:
            expected = self._expected[number]
            given = self._backend.log_probabilities(self._engine, self._samples[number][None], expected.ids)
            found.append(divergence(expected.log_probabilities, given))
        return float(np.mean(found))

    def _composed(self, levels: Mapping[str, Level]) -> Iterator[tuple[str, np.ndarray]]:
        for name, array in self._parameters():
            layer = name.removesuffix(".weight")
            yield name, self._levels[layer].weight(levels[layer]) if layer in levels else array


def divergence(expected: np.ndarray, given: np.ndarray) -> float:
    """Return the mean divergence of two distributions' log-probabilities (..., entries), what they leave out as one."""
    probabilities = np.exp(expected.astype(np.float64))
    rest, other = (np.clip(1 - np.exp(each.astype(np.float64)).sum(-1), 1e-9, None) for each in (expected, given))
    terms = (probabilities * (expected.astype(np.float64) - given)).sum(-1) + rest * np.log(rest / other)
    return float(terms.mean())
