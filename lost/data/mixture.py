"""Several prepared sets as one: samples drawn from each in proportion to its weight.

The order is a pure function of (seed, position), as that of one set is: samples come in blocks of a fixed length, each
of which holds exactly as many of every set as its weight says, in an order keyed by (seed, block). So how many of a set
came before a block is one multiplication, and a run's position stays one integer. Each set is visited in its own
permuted order, epoch after epoch, however often the others are.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lost.config import Config, DataConfig
from lost.data.batch import Batch, Sample, stacked
from lost.data.dataset import TRAIN, Dataset, Split, config_path, join_splits
from lost.data.loader import SampleStream, TrainingStream
from lost.data.permutation import Permutation
from lost.data.soft_targets.reader import SoftTargetSet
from lost.errors import ConfigError, DataError
from lost.tokenizer import same_ids

_FINEST = 10_000  # samples of the longest block, and so the parts that weights are rounded to
_SHORTEST = 100  # samples of the shortest, lest the sets come in turns that can be foreseen


class Mixture(Dataset):
    """Prepared sets with weights.

    Args:
        weights: of the samples, by folder; only their proportions count, and the order in which they are named doesn't.

    Attributes:
        path: what messages call it.
        weights: by folder.
        sets: the sets.
        slots: how many samples of a block are drawn from each.

    Raises:
        DataError: a folder that is no prepared set, sets of different tokenizers or kinds, one twice, a weight that is
            too small.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        sets = {name: Dataset(Path(name)) for name in weights}
        # Sorted by what they hold: a mixture is the same wherever its sets stand, and whichever is named first.
        names = sorted(sets, key=lambda name: sets[name].fingerprint)
        self.weights = dict(weights)
        self.sets = [sets[name] for name in names]
        self.slots = _slots({name: weights[name] for name in names})
        self.path = Path(" + ".join(weights))
        tokenizers = [each.tokenizer for each in self.sets]
        self.tokenizer = next((each for each in tokenizers if each.chat_template), tokenizers[0])
        for first, second in pairwise(self.sets):
            if first.fingerprint == second.fingerprint:
                raise DataError(f"data.mixture: {first.path} and {second.path} hold the same data; name one of them")
            if not same_ids(first.tokenizer, second.tokenizer):
                raise DataError(
                    f"data.mixture: {first.path} and {second.path} were prepared with different tokenizers; expected "
                    f"one for all: prepare one of them again with --tokenizer {first.path}"
                )
            if (first.split(TRAIN).loss_mask is None) != (second.split(TRAIN).loss_mask is None):
                raise DataError(
                    f"data.mixture: of {first.path} and {second.path} one holds examples and the other text; expected "
                    "sets of one kind; prepare the text as examples too"
                )

    @property
    def fingerprint(self) -> str:
        """One checksum over the sets and their weights, whatever their folders are called."""
        content = json.dumps([(each.fingerprint, slots) for each, slots in zip(self.sets, self.slots, strict=True)])
        return hashlib.sha256(content.encode()).hexdigest()

    def shares(self) -> list[float]:
        """Return the share of samples that is drawn from each set."""
        return [slots / sum(self.slots) for slots in self.slots]

    def split(self, name: str) -> Split:
        """Open a split: that of every set, one after the other, without regard to the weights."""
        return join_splits([each.split(name) for each in self.sets])

    def problems(self, rank: int = 0, world_size: int = 1, only: str | None = None) -> Iterator[str]:
        """Yield what is wrong with shards, as one set does."""
        return chain.from_iterable(each.problems(rank, world_size, only) for each in self.sets)

    def settings(self) -> dict[str, Any]:
        """Return what names it in a configuration."""
        return {"path": None, "mixture": {config_path(Path(name)): weight for name, weight in self.weights.items()}}


class MixedStream:
    """The samples of a run on a mixture, in their order.

    Args:
        streams: of the sets.
        slots: how many samples of a block each of them gives.
        seed: of the run.
    """

    def __init__(self, streams: Sequence[TrainingStream], slots: Sequence[int], seed: int) -> None:
        self._streams, self._slots, self._seed, self._block = streams, slots, seed, sum(slots)
        self._turns = lru_cache(maxsize=2)(self._block_turns)

    @property
    def has_mask(self) -> bool:
        """Whether some predictions don't enter the loss."""
        return self._streams[0].has_mask

    def batch(self, first: int, count: int) -> Batch:
        """Return samples [first, first + count)."""
        return stacked([self._sample(position) for position in range(first, first + count)])

    def predictions(self, first: int, count: int) -> int:
        """Count the predictions that enter the loss in samples [first, first + count)."""
        if not self.has_mask:  # all windows have as many, whichever are drawn
            return self._streams[0].predictions(0, count)
        drawn = [self.draw(position) for position in range(first, first + count)]
        return sum(self._streams[source].predictions(number, 1) for source, number in drawn)

    def epochs(self, samples: int) -> list[float]:
        """Return how many epochs of each set this number of samples is."""
        return [
            each.epochs(1)[0] * samples * slots / self._block
            for each, slots in zip(self._streams, self._slots, strict=True)
        ]

    def draw(self, position: int) -> tuple[int, int]:
        """Return which set a sample is drawn from, and how many were drawn from it before."""
        block, turn = divmod(position, self._block)
        sources, before = self._turns(block)
        source = int(sources[turn])
        return source, block * self._slots[source] + int(before[turn])

    def _block_turns(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return for each sample of a block its set, and how many samples of that set the block has before it."""
        order = Permutation(self._block, self._seed, block, "block")(np.arange(self._block))
        sources = np.repeat(np.arange(len(self._slots)), self._slots)[order]
        before = np.empty(self._block, np.int64)
        for source, slots in enumerate(self._slots):
            before[sources == source] = np.arange(slots)
        return sources, before

    def _sample(self, position: int) -> Sample:
        source, number = self.draw(position)
        return self._streams[source].sample(number)


def training_stream(dataset: Dataset, seq_len: int, seed: int, soft: SoftTargetSet | None = None) -> SampleStream:
    """Return the samples of a run, with soft targets of its windows where there are any, which a mixture has not.

    Raises:
        DataError: a split that is missing, damaged, or shorter than one sample.
    """
    if not isinstance(dataset, Mixture):
        return TrainingStream(dataset.split(TRAIN), seq_len, seed, soft=soft)
    streams = [TrainingStream(each.split(TRAIN), seq_len, seed, each.fingerprint) for each in dataset.sets]
    return MixedStream(streams, dataset.slots, seed)


def open_dataset(data: DataConfig, instead: Path | None = None) -> Dataset:
    """Open the prepared text of a configuration, or the set that a user names instead.

    Raises:
        DataError: it names none, or one that can't be used.
    """
    if instead:
        return Dataset(instead)
    if data.mixture:
        return Mixture(data.mixture)
    if data.path is None:
        raise DataError(
            "no data: neither --data nor data.path is set; expected a folder made by `lost prepare TEXT... --out DIR`, "
            "or several with weights in data.mixture"
        )
    return Dataset(Path(data.path))


def with_data(config: Config, dataset: Dataset) -> Config:
    """Return the configuration with the data's paths, absolute, and, where it is left open, its vocabulary.

    Raises:
        ConfigError: the data's tokenizer has ids beyond the model's vocabulary.
    """
    entries = dataset.tokenizer.vocab_size
    if config.model.vocab_size is None:
        config = config.replace("model", vocab_size=entries)
    elif config.model.vocab_size < entries:
        raise ConfigError(
            f"model.vocab_size = {config.model.vocab_size}: the tokenizer of {dataset.path} has ids up to "
            f"{entries - 1}; expected at least {entries}; raise model.vocab_size, remove it, or prepare the data with "
            "a smaller one"
        )
    further = {name: config_path(Path(path)) for name, path in config.data.also_evaluate.items()}
    return config.replace("data", **dataset.settings(), also_evaluate=further)


def _slots(weights: Mapping[str, float]) -> list[int]:
    """Return how many samples of a block each set gives, in proportion to the weights, by the largest remainders."""
    _, exponent = math.frexp(max(weights.values()))  # by a power of two no digit changes, and the sum is a number
    scaled = [math.ldexp(weight, -exponent) for weight in weights.values()]
    total = math.fsum(scaled)
    shares = [weight / total * _FINEST for weight in scaled]
    slots = [int(share) for share in shares]
    by_remainder = sorted(range(len(slots)), key=lambda number: (slots[number] - shares[number], number))
    for number in by_remainder[: _FINEST - sum(slots)]:
        slots[number] += 1
    for name, count, weight in zip(weights, slots, scaled, strict=True):
        if not count:
            raise DataError(
                f"data.mixture: {name} has the weight {weights[name]}, {weight / total:.2g} of all; expected at least "
                f"one {_FINEST:,}th of all; raise it, or leave the set out"
            )
    common = math.gcd(*slots)
    times = -(-_SHORTEST * common // _FINEST)
    return [count // common * times for count in slots]
