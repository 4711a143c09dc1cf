"""The data order: a keyed permutation, the same everywhere."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lost.data.permutation import Permutation


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    order = Permutation(size, seed, epoch)(np.arange(size))
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_positions_can_be_asked_alone() -> None:
    permutation = Permutation(1000, 3, 1)
    whole = permutation(np.arange(1000))
    np.testing.assert_array_equal(permutation(np.array([[7], [999]])), whole[[[7], [999]]])


def test_seed_and_epoch_change_the_order_and_it_is_mixed() -> None:
    orders = [Permutation(5000, seed, epoch)(np.arange(5000)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for number, first in enumerate(orders):
        assert abs(np.corrcoef(first, np.arange(5000))[0, 1]) < 0.06
        for second in orders[number + 1 :]:
            assert (first == second).mean() < 0.01


def test_large_range() -> None:
    drawn = Permutation(10**12, 0, 0)(np.arange(1000))
    assert len(set(drawn.tolist())) == 1000
    assert 0 <= drawn.min() <= drawn.max() < 10**12
