"""Growth of a whole model: every array of the grown one, by name, from those of the old."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lost.errors import UserError
from lost.model.parameters import EMBEDDING, FINAL_NORM, HEAD
from lost.optim import KINDS, Optimizer, optimizer_of, state_shapes
from lost.projections import Projection
from lost.reshape.grow.copies import Array, Growth, OfMoments, OfWeights, copies_of
from lost.reshape.grow.layer import OUTPUTS, grown_layer
from lost.reshape.grow.target import INTO_THE_STREAM, Target
from lost.utils.randomness import generator
from lost.utils.wording import listed

Arrays = Mapping[str, Array]


def grown_parameters(target: Target, parameters: Arrays) -> Iterator[tuple[str, Array]]:
    """Yield the parameters of the grown model.

    What is drawn depends on the configuration's seed and on names. New rows of `down` are those that a new layer of
    this rank would begin with.

    Args:
        target: what the model becomes.
        parameters: of the model, all of them.

    Raises:
        UserError: a layer can't be grown so.
    """
    seed, std = target.new.train.seed, target.new.model.initializer_range
    yield from _Model(
        target,
        indices=parameters,
        growth=lambda name: OfWeights(generator(seed, f"{name} grown")),
        rows=lambda new: new.initial(seed, std)["down"],
        absent=lambda name: name.split(".")[-2] in INTO_THE_STREAM and name.split(".")[-1] in OUTPUTS,
    ).grown(parameters)


def grown_moments(target: Target, moments: Arrays, parameters: Arrays) -> Iterator[tuple[str, Array]]:
    """Yield the optimizer's arrays for the grown model, under a checkpoint's names.

    Those of what is new are zero. What begins anew, as Spectron's vectors, comes to the right values in a few steps.

    Args:
        target: what the model becomes.
        moments: of the model.
        parameters: of the model; those that hold indices count.

    Raises:
        UserError: the optimizer keeps what isn't known to grow.
    """
    optimizer = optimizer_of(target.old)
    if unknown := _unknown(type(optimizer)):
        known = listed([name for name, kind in KINDS.items() if not _unknown(kind)])
        raise UserError(
            f"--moments keep, with {', '.join(unknown)} of {target.old.optimizer.name}: only those of {known} are "
            "known to grow; expected --moments drop; leave it out"
        )
    powers, begun_anew = optimizer.gradient_powers, optimizer.begun_anew
    for kind in filter(powers.__contains__, optimizer.arrays):
        end = f".{kind}"
        held = {name.removesuffix(end): array for name, array in moments.items() if name.endswith(end)}
        grown = _model_of_moments(target, parameters, OfMoments(powers[kind])).grown(held)
        yield from ((f"{name}{end}", array) for name, array in grown)
    for name, shape in state_shapes(target.new).items():
        if (kind := name.rpartition(".")[2]) in begun_anew:
            yield name, np.full(shape, begun_anew[kind], next(iter(moments.values())).dtype)


def _unknown(kind: type[Optimizer]) -> list[str]:
    """Return the arrays of an optimizer of which it doesn't say how they grow."""
    return [array for array in kind.arrays if array not in kind.gradient_powers and array not in kind.begun_anew]


def _model_of_moments(target: Target, parameters: Arrays, growth: OfMoments) -> "_Model":
    return _Model(
        target,
        indices=parameters,
        growth=lambda name: growth,
        rows=lambda new: np.zeros((new.settings.rank, new.in_features)),
        absent=lambda name: True,
    )


@dataclass(frozen=True)
class _Model:
    """The walk over a model's arrays.

    Attributes:
        target: what the model becomes.
        indices: the old channels and indices, by name.
        growth: returns how the arrays of a name grow.
        rows: returns `down` of a layer, for the rows that are new.
        absent: whether an array of a silent block is zero.
    """

    target: Target
    indices: Arrays
    growth: Callable[[str], Growth]
    rows: Callable[[Projection], Array]
    absent: Callable[[str], bool]

    def grown(self, arrays: Arrays) -> Iterator[tuple[str, Array]]:
        """Yield what some arrays of the old model become."""
        old, new = self.target.old.model, self.target.new.model
        source = copies_of(old.hidden_size, new.hidden_size)
        tied = new.tie_word_embeddings
        if EMBEDDING in arrays:
            yield EMBEDDING, self.growth(EMBEDDING).outputs(arrays[EMBEDDING].T, source).T
        if HEAD in arrays:
            yield HEAD, self.growth(HEAD).inputs(arrays[HEAD], new.hidden_size)
        if FINAL_NORM in arrays:  # a tied head can't read shares: its columns are the embedding's
            norm, growth = arrays[FINAL_NORM], self.growth(FINAL_NORM)
            yield FINAL_NORM, growth.inputs(norm, new.hidden_size) if tied else growth.outputs(norm, source)
        for number, pairs in self.target.layers():
            for name, array in self._block(number, pairs, arrays, source):
                silent = number in self.target.silent and self.absent(name)
                yield name, np.zeros_like(array) if silent else array

    def _block(
        self, number: int, pairs: list[tuple[Projection, Projection]], arrays: Arrays, source: Array
    ) -> Iterator[tuple[str, Array]]:
        before, after = f"model.layers.{self.target.blocks[number]}.", f"model.layers.{number}."
        for part in ("input_layernorm", "post_attention_layernorm"):
            if before + (name := f"{part}.weight") in arrays:
                yield after + name, self.growth(after + name).outputs(arrays[before + name], source)
        for part in ("q_norm", "k_norm"):
            if before + (name := f"self_attn.{part}.weight") in arrays:
                yield after + name, arrays[before + name]
        for old, new in pairs:
            held = {
                suffix: self.indices[f"{old.name}.{suffix}"] if tensor.integer else arrays[f"{old.name}.{suffix}"]
                for suffix, tensor in old.tensors().items()
                if tensor.integer or f"{old.name}.{suffix}" in arrays
            }
            grown = grown_layer(old, new, held, self.growth(new.name), self.rows, self.target.new.train.seed)
            for suffix, array in grown.items():
                if f"{old.name}.{suffix}" in arrays:
                    yield f"{new.name}.{suffix}", array
