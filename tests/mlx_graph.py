"""What a lazy MLX result would launch, read from its graph: as on a CPU, or with what Metal has put in its place."""

import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from lost.backends.mlx.engine import MlxEngine
from lost.backends.mlx.kernels import checkpointing, gated, group, metal
from lost.data.batch import Batch
from lost.model.load import load_config

_VIEWS = {
    "AsStrided", "Broadcast", "CustomTransforms", "Depends", "ExpandDims", "Flatten", "Reshape", "Slice", "Split",
    "Squeeze", "StopGradient", "Transpose", "Unflatten", "View int32", "View uint32", "View uint16",
}  # fmt: skip
# No bigger than it must be to have every tensor and every fusion of the real one.
NARROW = ("model.hidden_size=128", "model.intermediate_size=160", "model.vocab_size=64", "data.seq_len=64",
          "projection.rank=32", "projection.align=8", "train.batch_size=1", "train.micro_batch_size=1",
          "train.compile=true")  # fmt: skip


def primitives(*results: object) -> Counter[str]:
    """Operations between evaluated arrays and these, by MLX's name, without those that only look at others' memory.

    A concatenation counts as often as it copies.
    """
    arrays = [each for _, each in tree_flatten(list(results)) if isinstance(each, mx.array)]
    text = io.StringIO()
    mx.export_to_dot(text, *arrays)
    names = dict(re.findall(r'(\d+) \[label ?= ?"([^"]+)", shape=rectangle', text.getvalue()))
    found = Counter(name for name in names.values() if name not in _VIEWS)
    if "Concatenate" in found:
        found["Concatenate"] = sum(names[each] == "Concatenate" for each in re.findall(r'" -> (\d+)', text.getvalue()))
    return found


def launches(name: str, *settings: str) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Operations of a first micro-step, of one that adds to gradients, and of a whole update with the joint norm."""
    engine = MlxEngine(load_config(name, [*NARROW, *settings]), "cpu")
    mx.eval(engine.model.parameters(), engine._stacks, engine._optimizer.held())
    tokens = engine._on_device(Batch(np.zeros((1, 65), np.int32)))
    METAL.clear()
    nll, gradients = engine._micro_step(*tokens, mx.array(1.0), None)
    first = primitives(nll, list(gradients.values())) + METAL
    given = {names: mx.ones(each.shape) for names, each in gradients.items()}
    mx.eval(given)
    METAL.clear()
    nll, gradients = engine._micro_step(*tokens, mx.array(1.0), given)
    later = primitives(nll, list(gradients.values())) + METAL
    norm, whole = engine._joint(given)
    joint = primitives(norm, list(whole.values()))
    mx.eval(norm, whole)
    engine._update(mx.array(0.1), norm, whole)
    return first, later, joint + primitives(list(engine._stacks.values()), engine._optimizer.held())


METAL: Counter[str] = Counter()
"""What stands for Metal's own kernels has launched since the last `launches` began."""


def as_on_metal(patch: Callable[[object, str, object], object]) -> None:
    """Have the graph be Metal's, as far as MLX's source says: kernels of MLX and of ours each an operation, or more.

    Norms, rotary positions and attention are many operations on a CPU; on Metal norms are one, and two backward where
    they have a weight (`RMSNorm` and `RMSNormVJP` of mlx/backend/metal/normalization.cpp); the others are counted as
    one each way, which for attention's backward pass is too few: so LOST's share of dense is rather too large.

    Args:
        patch: sets an attribute of an object, as pytest's `monkeypatch.setattr`.
    """
    patch(checkpointing, "on_cpu", lambda: False)
    patch(group, "works", lambda dtype: True)
    patch(metal, "_launch", _kernel_of_ours)
    patch(gated, "_launch", _kernel_of_the_gate)
    patch(mx.fast, "rms_norm", _stand_in("norm", lambda x, weight, eps: [x] if weight is None else [x, weight]))
    patch(mx.fast, "rope", _stand_in("rope", lambda x, *rest, **settings: [x]))
    patch(mx.fast, "scaled_dot_product_attention", _stand_in("attention", lambda *given, **settings: list(given)))


def _made(name: str, number: int, like: Sequence[mx.array], given: Sequence[mx.array]) -> list[mx.array]:
    METAL[name] += number
    made = [mx.zeros(each.shape, each.dtype) for each in like]
    mx.eval(made)  # no operation of the graph
    return mx.depends(made, list(given))


def _stand_in(name: str, arrays: Callable[..., list[mx.array]]) -> Callable[..., mx.array]:
    """Return a function of no meaning that counts as many launches as Metal's kernel."""

    @mx.custom_function
    def function(*given: mx.array) -> mx.array:
        return _made(name, 1, given[:1], given)[0]

    @function.vjp
    def gradients(given: Any, gradient: mx.array, output: mx.array) -> tuple[mx.array, ...]:
        primals = [given] if isinstance(given, mx.array) else given
        backward = 2 if name == "norm" and len(primals) > 1 else 1
        return tuple(_made(f"{name}, backward", backward, primals, [*primals, gradient]))

    return lambda *given, **settings: function(*arrays(*given, **settings))


def _kernel_of_ours(name: str, hidden: mx.array, x: mx.array, *rest: Any) -> list[mx.array]:
    METAL[f"{name} of LOST layers"] += 1
    *_, gradients, results, _ = rest
    made = [mx.zeros(shape, dtype) for shape, dtype in results]
    mx.eval(made)
    return mx.depends(made, [hidden, x, *gradients])


def _kernel_of_the_gate(name: str, inputs: Sequence[mx.array], shape: tuple[int, ...], activated: bool) -> mx.array:
    METAL[f"{name} of the gate"] += 1
    made = mx.zeros(shape, inputs[0].dtype)
    mx.eval(made)
    return mx.depends([made], list(inputs))[0]
