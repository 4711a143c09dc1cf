"""A trained weight as a LOST layer: what is kept exactly, and what is best for given inputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lost.config import ProjectionSettings
from lost.errors import UserError
from lost.method.compress import Weighting, approximate, decompose_weighted, layer_fit, stored
from lost.method.decompose import compose


def weight_and_moment(out: int, inside: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A weight, and the second moment of inputs that lie mostly in a few directions."""
    random = np.random.default_rng(seed)
    inputs = (
        random.standard_normal((400, inside)) * np.linspace(3, 0.05, inside) @ random.standard_normal((inside,) * 2)
    )
    return random.standard_normal((out, inside)), inputs.T @ inputs / 400


def recipe(**changes: object) -> ProjectionSettings:
    return ProjectionSettings.model_validate({"rank": 5, "density": 0.2, "align": 1, "activation": "none", **changes})


@pytest.mark.parametrize("gamma", [0.2, 0.7])
def test_truncated_matrix_and_kept_channels_exactly(gamma: float) -> None:
    weight, _ = weight_and_moment(16, 20)
    factors = approximate(weight, recipe(gamma=gamma))
    left, singular, right = np.linalg.svd(weight, full_matrices=False)
    low = left[:, :5] * singular[:5] @ right[:5]
    rest = weight - low
    expected = low.copy()
    kept = np.sort(np.argsort(-np.linalg.norm(rest, axis=0))[:4])
    expected[:, kept] += rest[:, kept]
    np.testing.assert_array_equal(factors.channels, kept)
    np.testing.assert_allclose(compose(factors, gamma), expected, atol=1e-12)


@settings(max_examples=25)
@given(out=st.integers(2, 24), inside=st.integers(2, 24), calibrated=st.booleans(), gamma=st.floats(0.05, 0.95))
def test_full_rank_is_the_weight(out: int, inside: int, calibrated: bool, gamma: float) -> None:
    weight, moment = weight_and_moment(out, inside)
    chosen = recipe(rank=min(out, inside), gamma=gamma)
    factors = approximate(weight, chosen, Weighting(moment if calibrated else None))
    np.testing.assert_allclose(compose(factors, gamma), weight, atol=1e-8)


def test_low_rank_part_is_the_best_for_the_inputs() -> None:
    """Eckart and Young, in the norm of the inputs: the error is that of the trailing singular values of W L."""
    weight, moment = weight_and_moment(16, 20)
    ridged = moment + 1e-4 * np.trace(moment) / 20 * np.eye(20)
    root = np.linalg.cholesky(ridged)
    factors = decompose_weighted(weight, Weighting(moment), 5, 0.2)
    rest = weight - factors.up[:, :5] @ factors.down
    singular = np.linalg.svd(weight @ root, compute_uv=False)
    assert np.linalg.norm(rest @ root) == pytest.approx(np.linalg.norm(singular[5:]))


def test_kept_columns_are_the_best_for_the_inputs() -> None:
    weight, moment = weight_and_moment(16, 20)
    ridged = moment + 1e-4 * np.trace(moment) / 20 * np.eye(20)
    factors = decompose_weighted(weight, Weighting(moment), 5, 0.2)

    def loss(sparse: np.ndarray) -> float:
        lost = weight - factors.up[:, :5] @ factors.down
        lost[:, factors.channels] -= sparse
        return float(np.trace(lost @ ridged @ lost.T))

    best = factors.up[:, 5:]
    random = np.random.default_rng(1)
    assert all(loss(best) < loss(best + 1e-3 * random.standard_normal(best.shape)) for _ in range(5))


def test_calibration_helps_on_the_inputs_and_equal_inputs_change_nothing() -> None:
    weight, moment = weight_and_moment(30, 40)
    errors = []
    for used in (None, moment):
        chosen = recipe()
        values = stored(approximate(weight, chosen, Weighting(used)), np.dtype(np.float64))
        errors.append(layer_fit("layer", weight, values, chosen.gamma, moment))
    plain, weighted = errors
    assert weighted.input_error is not None
    assert plain.input_error is not None
    assert weighted.input_error < 0.8 * plain.input_error
    assert plain.error < weighted.error
    assert (plain.rank, plain.channels, plain.shape) == (5, 8, (30, 40))
    same = approximate(weight, recipe(), Weighting(3 * np.eye(40)))
    np.testing.assert_allclose(compose(same, 0.7), compose(approximate(weight, recipe()), 0.7), atol=1e-9)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weight, moment = weight_and_moment(8, 12)
    moment[:, 3] = moment[3] = 0
    for each in (moment, np.zeros((12, 12))):
        assert np.isfinite(approximate(weight, recipe(), Weighting(each)).up).all()


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_gamma_must_leave_both_parts(gamma: float) -> None:
    with pytest.raises(UserError, match="it would drop one of the two parts"):
        approximate(np.eye(8), recipe(gamma=gamma))
