"""SwiGLU's product of gate and up, which lie in one array: so that their gradients do too, and one product reads both.

Kernels of Metal as those of `metal`, under the same conditions.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import mlx.core as mx

_READ = """
    uint place = thread_position_in_grid.x;
    uint size = both_shape[1] * both_shape[2] * both_shape[3];
    float gate = float(both[place]);
    float passed = float(both[place + size]);
    float sigmoid = ACTIVATED ? 1.0f / (1.0f + metal::exp(-gate)) : 1.0f;
"""
BODIES = {
    "forward": _READ
    + """
    product[place] = T(gate * sigmoid * passed);
""",
    "backward": _READ
    + """
    float slope = ACTIVATED ? sigmoid * (1.0f + gate * (1.0f - sigmoid)) : 1.0f;
    both_gradient[place] = T(float(outer[place]) * passed * slope);
    both_gradient[place + size] = T(float(outer[place]) * gate * sigmoid);
""",
}
NAMES = {"forward": (["both"], ["product"]), "backward": (["both", "outer"], ["both_gradient"])}
_GROUP = 256  # threads


def product(both: mx.array, activated: bool) -> mx.array:
    """Return silu(both[0]) both[1], or both[0] both[1] if nothing is activated, (b, s, width).

    Args:
        both: (2, b, s, width).
        activated: whether SiLU acts.
    """
    return _function(activated)(both)


@cache
def _function(activated: bool) -> Any:
    function = mx.custom_function(partial(_forward, activated))
    function.vjp(partial(_gradient, activated))
    return function


def _forward(activated: bool, both: mx.array) -> mx.array:
    return _launch("forward", [both], both.shape[1:], activated)


def _gradient(activated: bool, both: mx.array, outer: mx.array, output: mx.array) -> mx.array:
    return _launch("backward", [both, outer], both.shape, activated)


def _launch(name: str, inputs: Sequence[mx.array], shape: tuple[int, ...], activated: bool) -> mx.array:
    threads = inputs[0].size // 2
    (found,) = _kernel(name)(
        inputs=list(inputs),
        template=[("T", inputs[0].dtype), ("ACTIVATED", activated)],
        grid=(threads, 1, 1),
        threadgroup=(min(_GROUP, threads), 1, 1),
        output_shapes=[shape],
        output_dtypes=[inputs[0].dtype],
    )
    return found


@cache
def _kernel(name: str) -> Any:
    return mx.fast.metal_kernel(f"lost_gated_{name}", *NAMES[name], BODIES[name])
