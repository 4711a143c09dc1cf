"""Sampling: greedy, truncated, and with the requested distribution."""

import numpy as np
import pytest

from lost.errors import UserError
from lost.evaluation.sampler import Sampler

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05])).astype(np.float32)


def drawn(**settings: float) -> np.ndarray:
    sampler = Sampler(**settings)  # type: ignore[arg-type]
    return np.bincount([sampler(LOGITS) for _ in range(4000)], minlength=4) / 4000


def test_zero_temperature_is_greedy() -> None:
    np.testing.assert_array_equal(drawn(temperature=0), [1, 0, 0, 0])


def test_frequencies_follow_the_softmax() -> None:
    np.testing.assert_allclose(drawn(temperature=1), [0.5, 0.3, 0.15, 0.05], atol=0.03)
    sharper = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    np.testing.assert_allclose(drawn(temperature=0.5), sharper / sharper.sum(), atol=0.03)


def test_top_k_and_top_p_cut_the_tail() -> None:
    np.testing.assert_allclose(drawn(temperature=1, top_k=2), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(drawn(temperature=1, top_p=0.79), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_array_equal(drawn(temperature=1, top_p=0.4), [1, 0, 0, 0])


def test_seed_decides() -> None:
    draws = [[Sampler(1.0, seed=seed)(LOGITS) for _ in range(1)] for seed in (1, 1)]
    assert draws[0] == draws[1]
    first, second, third = Sampler(1.0, seed=1), Sampler(1.0, seed=1), Sampler(1.0, seed=2)
    rows = [[sampler(LOGITS) for _ in range(50)] for sampler in (first, second, third)]
    assert rows[0] == rows[1] != rows[2]


@pytest.mark.parametrize("settings", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}])
def test_refused(settings: dict) -> None:
    with pytest.raises(UserError, match="expected temperature >= 0"):
        Sampler(**settings)
