"""A run that doesn't fit is refused before it starts, with the nearest batch that does."""

from collections.abc import Callable

import pytest

from lost.config import Config
from lost.distributed.group import local_batch_size
from lost.errors import ConfigError
from lost.planning.budget import budget, check_room


def test_the_nearest_batch_that_fits(config: Callable[..., Config]) -> None:
    settings = config(data={"seq_len": 64}, train={"batch_size": 24, "micro_batch_size": None})
    room = budget(settings, micro_batch=7).memory.total
    with pytest.raises(ConfigError, match=r"training needs about .* GiB \(.* weights, .* gradients, .* moments, .*"):
        check_room(settings, "torch", "cpu", room)
    with pytest.raises(ConfigError, match=r"the nearest that fits is --set train.micro_batch_size=6,"):
        check_room(settings, "torch", "cpu", room)
    check_room(settings.replace("train", micro_batch_size=6), "torch", "cpu", room)
    with pytest.raises(ConfigError, match=r"micro_batch_size=6,"):
        check_room(settings, "torch", "cpu", room, workers=2)  # 12 sequences each
    check_room(settings, "torch", "cpu", room, workers=4)  # 6 each


def test_nothing_fits(config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"no train.micro_batch_size alone .*checkpoint_activations=full, .*smaller"):
        check_room(config(), "mlx", "gpu", 1000)


def test_accumulating_on_mlx_holds_two_sets_of_gradients(config: Callable[..., Config]) -> None:
    whole = config(train={"micro_batch_size": None})
    parts = config(train={"micro_batch_size": 2})
    assert budget(parts, "mlx").memory.gradients == 2 * budget(whole, "mlx").memory.gradients
    assert budget(parts, "torch").memory.gradients == budget(whole, "torch").memory.gradients


def test_shares(config: Callable[..., Config]) -> None:
    settings = config(train={"batch_size": 12, "micro_batch_size": 2})
    assert local_batch_size(settings, 1) == (12, 2)
    assert local_batch_size(settings, 3) == (4, 2)
    assert local_batch_size(config(train={"batch_size": 12, "micro_batch_size": None}), 3) == (4, 4)
    for count in (4, 5, 24):  # 3 sequences each aren't whole micro-batches; 5 don't divide; 24 are too many
        with pytest.raises(ConfigError, match=f"divide among {count} workers"):
            local_batch_size(settings, count)
