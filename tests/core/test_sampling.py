"""Sampling: greedy, truncated, and with the requested distribution."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lost.errors import UserError
from lost.generation.sampler import Sampler
from lost.generation.stopping import until

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05])).astype(np.float32)


def drawn(**settings: float) -> np.ndarray:
    sampler = Sampler(**settings)  # type: ignore[arg-type]
    return np.bincount([sampler(LOGITS) for _ in range(4000)], minlength=4) / 4000


def test_zero_temperature_is_greedy() -> None:
    np.testing.assert_array_equal(drawn(temperature=0), [1, 0, 0, 0])


@pytest.mark.filterwarnings("error")
def test_next_to_no_temperature_is_greedy() -> None:
    assert Sampler(temperature=1e-320)(np.array([-3.0, 5.0, 4.999], np.float32)) == 1


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


def test_each_text_has_random_numbers_of_its_own() -> None:
    """However many were drawn for the one before: MLX draws one in advance."""
    short, long = Sampler(1.0, seed=1), Sampler(1.0, seed=1)
    rows = []
    for sampler, drawn_before in ((short, 3), (long, 4)):
        sampler.begin([])
        [sampler(LOGITS) for _ in range(drawn_before)]
        sampler.begin([])
        rows.append([sampler(LOGITS) for _ in range(50)])
    first = Sampler(1.0, seed=1)
    assert rows[0] == rows[1] != [first(LOGITS) for _ in range(50)]


def test_repetition_is_penalized_as_in_transformers() -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    logits = np.array([1.5, -0.5, 0.7, 0.2, -2.0], np.float32)
    penalty = transformers.RepetitionPenaltyLogitsProcessor(1.3)
    sampler, seen = Sampler(0, repetition_penalty=1.3), [1, 2, 9]
    sampler.begin(seen)
    for _ in range(4):
        theirs = penalty(torch.tensor([[each for each in seen if each < 5]]), torch.tensor(logits)[None])
        assert sampler(logits) == int(theirs.argmax())
        seen.append(int(theirs.argmax()))
        logits[seen[-1]] -= 0.4  # so that others get their turn
    sampler.begin([])
    assert sampler(np.array([1.0, 0.9], np.float32)) == 0
    assert sampler(np.array([1.0, 0.9], np.float32)) == 1


@pytest.mark.parametrize("penalty", [0, -1.0, 1e-300, 1e300, float("inf"), float("nan")])
def test_penalties_refused(penalty: float) -> None:
    with pytest.raises(UserError, match="1 changes nothing"):
        Sampler(repetition_penalty=penalty)


@example(["ba", "b"], ["a", "bab"])  # one that begins later is whole first
@given(st.lists(st.text("ab", max_size=3), max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_a_stop_string(pieces: list[str], stops: list[str]) -> None:
    """What comes is what was read, up to the first stop string in it; nothing is asked for once one is whole."""
    asked: list[str] = []
    found = "".join(until((asked.append(piece) or piece for piece in pieces), stops))  # type: ignore[func-returns-value]
    read = "".join(asked)
    assert found == read[: min((read.find(stop) for stop in stops if stop in read), default=len(read))]
    shortest = next(
        (n for n in range(len(pieces)) if any(s in "".join(pieces[: n + 1]) for s in stops)), len(pieces) - 1
    )
    assert len(asked) == shortest + 1


def test_what_is_no_stop_string_is_not_held_back() -> None:
    pieces = until(iter(["one", "\n", "\ntwo"]), ["\n\n"])
    assert next(pieces) == "one"
    assert "".join(pieces) == ""


@pytest.mark.parametrize("settings", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}])
def test_refused(settings: dict) -> None:
    with pytest.raises(UserError, match="expected temperature >= 0"):
        Sampler(**settings)
