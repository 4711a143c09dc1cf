"""Score requests of any length against the numpy reference, however they are batched."""

from collections.abc import Callable

import numpy as np
import pytest
from device import device_of

from lost.config import Config
from lost.engine import BACKENDS, create_engine
from lost.evaluation.scoring import Score, ScoreRequest, score_requests
from lost.model import reference
from lost.model.init import initial_values

Made = tuple[list[ScoreRequest], list[Score]]


@pytest.fixture(scope="module")
def settings(config: Callable[..., Config]) -> Config:
    return config(model={"initializer_range": 0.5})


@pytest.fixture(scope="module")
def made(settings: Config) -> Made:
    """Requests with the reference's scores: mixed lengths, some or all tokens scored, some greedy."""
    random, values = np.random.default_rng(0), dict(initial_values(settings))
    rows, expected = [], []
    for length, num_targets in [(2, 1), (9, 8), (9, 3), (30, 1), (5, 2), (30, 29), (9, 1), (17, 4)]:
        tokens = random.integers(0, 19, length)
        if num_targets == 1:
            tokens[-1] = reference.logits(settings, values, tokens[None, :-1])[0, -1].argmax()
        logits = reference.logits(settings, values, tokens[None, :-1])[0].astype(np.float64)
        chances = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        told = chances[np.arange(length - 1), tokens[1:]][-num_targets:]
        rows.append(ScoreRequest(tokens, num_targets))
        expected.append(Score(told.sum(), bool((logits.argmax(axis=-1) == tokens[1:])[-num_targets:].all())))
    assert {score.greedy for score in expected} == {True, False}
    return rows, expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("at_once", [1, 20, 1000])
def test_against_the_reference(settings: Config, made: Made, backend: str, at_once: int) -> None:
    rows, expected = made
    engine = create_engine(settings, backend, device_of(backend))
    engine.load(initial_values(settings))
    done: list[int] = []
    found = score_requests(engine, rows, at_once, done.append)
    np.testing.assert_allclose(
        [score.log_likelihood for score in found],
        [score.log_likelihood for score in expected],
        rtol=2e-6,
        atol=5e-6,  # a card adds in another order
    )
    assert [score.greedy for score in found] == [score.greedy for score in expected]
    assert done[-1] == len(rows)
    assert len(done) == {1: 8, 20: 6, 1000: 1}[at_once]  # the longest first, as many as fit
    assert score_requests(engine, [], at_once) == []
