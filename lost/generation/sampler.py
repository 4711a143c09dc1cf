"""Sampling of the next token from logits: one implementation for every backend, so that equal seeds give equal text."""

from collections.abc import Iterable

import numpy as np

from lost.errors import UserError
from lost.utils.randomness import generator


class Sampler:
    """Samples from softmax(logits / temperature), restricted to the `top_k` likeliest and the nucleus of mass `top_p`.

    Args:
        temperature: 0 takes the likeliest token.
        top_k: 0 keeps all.
        top_p: mass of the smallest set of likeliest tokens to keep (Holtzman et al., arXiv 1904.09751).
        seed: equal seeds give equal samples.
        repetition_penalty: divides the positive logits of tokens that the text has already, and multiplies the negative
            ones (CTRL, Keskar et al., arXiv 1909.05858); 1 changes nothing.
        name: of the random numbers: under another, a seed gives others.

    Raises:
        UserError: a value out of range.
    """

    def __init__(
        self,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        repetition_penalty: float = 1.0,
        name: str = "sampling",
    ) -> None:
        if not 0 <= temperature < float("inf") or top_k < 0 or not 0 < top_p <= 1:
            raise UserError(
                f"temperature = {temperature}, top-k = {top_k}, top-p = {top_p}: expected temperature >= 0, "
                "top-k >= 0 and top-p in (0, 1]"
            )
        if not 1e-12 <= repetition_penalty <= 1e12:
            raise UserError(
                f"repetition-penalty = {repetition_penalty}: expected a number above 0; 1 changes nothing, 1.1 to 1.3 "
                "are usual"
            )
        self.temperature, self.top_k, self.top_p, self.repetition_penalty = (
            temperature,
            top_k,
            top_p,
            repetition_penalty,
        )
        self._seed, self._name, self._texts = seed, name, 0
        self.begin(())

    def begin(self, tokens: Iterable[int]) -> None:
        """Begin another text with these tokens, and random numbers of its own: a backend may draw some in advance."""
        number, self._texts = self._texts, self._texts + 1
        self._random = generator(self._seed, f"{self._name}.{number}" if number > 1 else self._name)
        self._seen = set(tokens)

    def __call__(self, logits: np.ndarray) -> int:
        """Return a token id for logits (vocab,)."""
        if self.repetition_penalty != 1:
            logits = self._penalized(logits)
        token = self._drawn(logits)
        self._seen.add(token)
        return token

    def _penalized(self, logits: np.ndarray) -> np.ndarray:
        seen, changed = np.array(sorted(self._seen), np.int64), logits.copy()
        kept = logits[seen[seen < len(logits)]]
        changed[seen[seen < len(logits)]] = np.where(
            kept > 0, kept / self.repetition_penalty, kept * self.repetition_penalty
        )
        return changed

    def _drawn(self, logits: np.ndarray) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        wide = logits.astype(np.float64)
        with np.errstate(over="ignore"):  # at temperatures near 0 all but the likeliest become -inf
            scaled = (wide - wide.max()) / self.temperature
        order = np.argsort(-scaled, kind="stable")[: self.top_k or None]
        mass = np.exp(scaled[order] - scaled[order[0]])
        mass /= mass.sum()
        kept = int(np.searchsorted(np.cumsum(mass), self.top_p)) + 1
        mass = mass[:kept] / mass[:kept].sum()
        drawn = int(np.searchsorted(np.cumsum(mass), self._random.random(), side="right"))
        return int(order[min(drawn, len(mass) - 1)])
