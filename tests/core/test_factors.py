"""The decomposition against numpy's SVD, and the identities of the method."""

import numpy as np
import pytest

from lost.errors import UserError
from lost.method.decompose import channel_count, compose, decompose

SHAPES = [
    # (out, in), rank, density: tall, wide, square, rank 1, full rank, all channels
    ((40, 12), 5, 0.3),
    ((12, 40), 5, 0.3),
    ((200, 30), 10, 0.1),
    ((30, 200), 10, 0.1),
    ((64, 64), 16, 0.05),
    ((65, 64), 1, 0.05),
    ((64, 65), 1, 0.5),
    ((33, 17), 17, 0.2),
    ((17, 33), 17, 0.2),
    ((128, 96), 95, 1.0),
]


def weights(shape: tuple[int, int], dtype: type, deficient: bool) -> np.ndarray:
    random = np.random.default_rng(shape)
    weight = random.standard_normal(shape)
    if deficient:
        thin = max(1, min(shape) // 3)
        weight = random.standard_normal((shape[0], thin)) @ random.standard_normal((thin, shape[1]))
    return weight.astype(dtype)


def plain(weight: np.ndarray, rank: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The truncated matrix and the chosen channels, straight from the definition."""
    exact = weight.astype(np.float64)
    u, s, vt = np.linalg.svd(exact, full_matrices=False)
    truncated = (u[:, :rank] * s[:rank]) @ vt[:rank]
    score = np.linalg.norm(exact - truncated, axis=0)
    score[score < 1e-5 * np.linalg.norm(exact, axis=0)] = 0  # captured whole: rounding decides nothing
    return truncated, np.sort(np.argsort(-score, kind="stable")[:count])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "rank", "density"), SHAPES)
def test_against_svd(shape: tuple[int, int], rank: int, density: float, dtype: type) -> None:
    weight = weights(shape, dtype, deficient=False)
    factors = decompose(weight, rank, density)
    truncated, channels = plain(weight, rank, max(1, int(density * shape[1])))
    np.testing.assert_array_equal(factors.channels, channels)
    product = factors.up[:, :rank].astype(np.float64) @ factors.down
    assert np.linalg.norm(product - truncated) <= (1e-6 if dtype is np.float32 else 1e-12) * np.linalg.norm(truncated)
    np.testing.assert_array_equal(factors.up[:, rank:], weight[:, channels])
    assert factors.down.dtype == factors.up.dtype == dtype
    assert factors.channels.dtype == np.int32


@pytest.mark.parametrize("seed", range(20))
def test_against_svd_on_random_shapes(seed: int) -> None:
    """Shape, rank, density and type drawn at random."""
    random = np.random.default_rng(seed)
    shape = (int(random.integers(1, 150)), int(random.integers(1, 150)))
    rank, density = int(random.integers(1, min(shape) + 1)), float(random.uniform(0.01, 1))
    weight = random.standard_normal(shape).astype(random.choice([np.float32, np.float64]))  # type: ignore[arg-type]
    factors = decompose(weight, rank, density)
    truncated, channels = plain(weight, rank, max(1, int(density * shape[1])))
    np.testing.assert_array_equal(factors.channels, channels)
    product = factors.up[:, :rank].astype(np.float64) @ factors.down
    assert np.linalg.norm(product - truncated) <= 1e-5 * np.linalg.norm(truncated)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "rank", "density"), SHAPES)
def test_rank_deficient(shape: tuple[int, int], rank: int, density: float, dtype: type) -> None:
    weight = weights(shape, dtype, deficient=True)
    factors = decompose(weight, rank, density)
    truncated, channels = plain(weight, rank, max(1, int(density * shape[1])))
    product = factors.up[:, :rank].astype(np.float64) @ factors.down
    assert np.isfinite(product).all()
    assert np.linalg.norm(product - truncated) <= 1e-5 * np.linalg.norm(truncated)
    if dtype is np.float64 or rank < min(shape) // 3:  # in float32 a weight has no exactly lower rank
        np.testing.assert_array_equal(factors.channels, channels)


def test_zero_weight() -> None:
    factors = decompose(np.zeros((6, 8)), 3, 0.5)
    assert not factors.up.any()
    assert not factors.down.any()
    np.testing.assert_array_equal(factors.channels, [0, 1, 2, 3])


def test_singular_values_are_split_evenly_and_signs_are_settled() -> None:
    weight = weights((30, 50), np.float64, deficient=False)
    factors = decompose(weight, 7, 0.1)
    singular = np.linalg.svd(weight, compute_uv=False)[:7]
    np.testing.assert_allclose(np.linalg.norm(factors.down, axis=1) ** 2, singular, rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(factors.up[:, :7], axis=0) ** 2, singular, rtol=1e-10)
    largest = np.abs(factors.down).argmax(axis=1)
    assert (factors.down[np.arange(7), largest] > 0).all()


def test_sign_does_not_depend_on_orientation_of_the_solver() -> None:
    weight = weights((50, 30), np.float64, deficient=False)
    first, second = decompose(weight, 7, 0.1), decompose(np.vstack([weight, np.zeros((1, 30))]), 7, 0.1)
    np.testing.assert_allclose(first.down, second.down, atol=1e-9)


@pytest.mark.parametrize("shape", [(20, 34), (34, 20)])
def test_full_rank_reproduces_the_weight(shape: tuple[int, int]) -> None:
    weight = weights(shape, np.float64, deficient=False)
    np.testing.assert_allclose(compose(decompose(weight, 20, 0.1), gamma=1.0), weight, atol=1e-10)


def test_low_rank_plus_complement_on_all_channels_reproduces_the_weight() -> None:
    weight = weights((20, 34), np.float64, deficient=False)
    factors = decompose(weight, 6, 1.0, values="complement")
    np.testing.assert_allclose(2 * compose(factors, gamma=0.5), weight, atol=1e-10)


def test_compose_weights_both_parts_by_gamma() -> None:
    weight = weights((9, 14), np.float64, deficient=False)
    factors = decompose(weight, 3, 0.3)
    expected = 0.7 * factors.up[:, :3] @ factors.down
    for column, channel in enumerate(factors.channels):
        expected[:, channel] += 0.3 * weight[:, channel]
        assert column < len(factors.channels)
    np.testing.assert_allclose(compose(factors, gamma=0.7), expected, atol=1e-12)


def test_channels_are_those_the_low_rank_leaves_out() -> None:
    weight = np.random.default_rng(0).standard_normal((40, 3)) @ np.random.default_rng(1).standard_normal((3, 60)) * 10
    weight[:, [5, 44]] += np.random.default_rng(2).standard_normal((40, 2))
    np.testing.assert_array_equal(decompose(weight, 3, 2 / 60).channels, [5, 44])


@pytest.mark.parametrize("shape", [(40, 64), (64, 40)])
def test_other_ways_of_choosing_channels(shape: tuple[int, int]) -> None:
    """Each from its definition: the complement's column norms, and the rows of V_r."""
    weight = weights(shape, np.float64, deficient=False)
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    complement = weight - (u[:, :6] * s[:6]) @ vt[:6]
    scores = {"l1": np.abs(complement).sum(axis=0), "leverage": -np.square(vt[:6]).sum(axis=0)}
    for select, score in scores.items():
        expected = np.sort(np.argsort(-score)[:8])
        np.testing.assert_array_equal(decompose(weight, 6, 8 / shape[1], select).channels, expected)
    assert len({tuple(decompose(weight, 6, 8 / shape[1], way).channels) for way in ("l2", *scores)}) > 1


def test_channels_drawn_at_random() -> None:
    def draw(seed: int) -> np.ndarray:
        weight = weights((20, 50), np.float64, deficient=False)
        return decompose(weight, 4, 0.2, "random", random=np.random.default_rng(seed)).channels

    np.testing.assert_array_equal(draw(1), draw(1))
    assert len(set(draw(1))) == 10
    assert {tuple(draw(seed)) for seed in range(5)} != {tuple(draw(0))}


@pytest.mark.parametrize(
    ("width", "density", "rank", "align", "count"),
    [(100, 0.03, 8, 1, 3), (10, 0.01, 8, 1, 1), (512, 0.03, 128, 32, 32), (40, 0.5, 30, 32, 34), (16, 1.0, 4, 32, 16)],
)
def test_channel_count(width: int, density: float, rank: int, align: int, count: int) -> None:
    assert channel_count(width, density, rank, align) == count


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((4, 0.5), "rank = 4"),
        ((0, 0.5), "rank = 0"),
        ((2, 0.0), "density = 0.0"),
        ((2, 1.5), "density = 1.5"),
        ((2, 0.5, "l7"), "select = 'l7'"),
        ((2, 0.5, "l2", "made up"), "values = 'made up'"),
    ],
)
def test_refused(arguments: tuple, named: str) -> None:
    with pytest.raises(UserError, match=named):
        decompose(np.ones((3, 5)), *arguments)


@pytest.mark.parametrize("weight", [np.ones(3), np.ones((3, 4), np.int64), np.full((3, 4), np.nan)])
def test_refused_weights(weight: np.ndarray) -> None:
    with pytest.raises(UserError):
        decompose(weight, 1, 0.5)
