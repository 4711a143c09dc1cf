"""The LOST layer's alternatives on this device, forward and backward, in turns: what was kept, and what wasn't.

usage: python benchmarks/layer_choices.py > benchmarks/results/layer_choices.md        (minutes on two cores)
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from common import heading
from torch import Tensor

from lost.backends.torch.kernels.lost import narrow_lost, widen_lost
from lost.bench.timing import time_interleaved

TOKENS, IN, OUT, RANK, KEPT, GAMMA = 1024, 768, 2048, 256, 32, 0.7
ROUNDS, CALLS = 40, 4  # calls a sample
WEIGHTS: list[Tensor] = []  # all that were made: they stay, so that nothing else takes their place in memory

Way = Callable[[Tensor], Tensor]


def main() -> None:
    """Print a table a type."""
    torch.manual_seed(0)
    print(f"{heading('Ways to compute a LOST layer', 'torch')}, {torch.get_num_threads()} threads.")
    print(f"{IN} -> {OUT}, rank {RANK}, {KEPT} channels, {TOKENS} tokens, forward and backward; medians of {ROUNDS}")
    print("rounds in turns, beside the first line of each part. Weights are float32 and cast in each pass.")
    for dtype in (torch.float32, torch.bfloat16):
        for title, ways in (("One layer", one_layer()), ("Three layers that read the same x", three_layers())):
            print(f"\n## {title}, {str(dtype).removeprefix('torch.')}\n")
            x = torch.randn(TOKENS, IN).to(dtype).requires_grad_()
            rows(ways, x)
    gathers()


def rows(ways: dict[str, Way], x: Tensor) -> None:
    """Time ways to map x, forward and backward."""
    outer = {name: torch.randn_like(way(x)) for name, way in ways.items()}

    def both(name: str) -> None:
        for _ in range(CALLS):
            x.grad = None
            ways[name](x).backward(outer[name])

    table({name: partial(both, name) for name in ways}, {name: kept_bytes(way, x) for name, way in ways.items()})


def kept_bytes(way: Way, x: Tensor) -> int:
    """Return what a forward pass keeps for the backward pass, float32 weights aside."""
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = way(x)
    del y
    weights = {each.untyped_storage().data_ptr() for each in WEIGHTS}
    return sum(size for place, size in found.items() if place not in weights)


def table(calls: dict[str, Callable[[], object]], kept: dict[str, int] | None = None) -> None:
    """Print medians beside the first one's."""
    times = {name: float(np.median(each)) / CALLS * 1e3 for name, each in time_interleaved(calls, ROUNDS, 3).items()}
    first = next(iter(times.values()))
    print(f"| way | ms | |{' kept, MiB |' if kept else ''}\n| --- | --- | --- |{' --- |' if kept else ''}")
    for name, milliseconds in times.items():
        memory = f" {kept[name] / 2**20:.1f} |" if kept else ""
        print(f"| {name} | {milliseconds:.2f} | {milliseconds / first:.2f} |{memory}")


def weight(*shape: int) -> Tensor:
    """Return something to train."""
    made = (torch.randn(*shape) * 0.02).requires_grad_()
    WEIGHTS.append(made)
    return made


def some_channels() -> Tensor:
    """Return the numbers of kept channels, int32."""
    return torch.randperm(IN)[:KEPT].sort().values.int()


def one_layer() -> dict[str, Way]:
    """Return CoLA's layer, ours, and others that compute the same."""
    down, up, pair, channels = weight(RANK, IN), weight(OUT, RANK + KEPT), weight(OUT, RANK), some_channels()
    aligned = {wide: (weight(wide, IN), weight(OUT, wide)) for wide in (RANK, 279, 288, 320)}
    places = channels.long()
    one_hot = F.one_hot(places, IN).float()

    def own(x: Tensor) -> Tensor:
        ((hidden, kept),) = narrow_lost(x, [down], [channels])
        return widen_lost(hidden, kept, up, GAMMA, "silu")

    def joined(hidden: Tensor, kept: Tensor) -> Tensor:
        return F.linear(torch.cat([GAMMA * F.silu(hidden), (1 - GAMMA) * kept], -1), up.to(hidden.dtype))

    def plain(x: Tensor) -> Tensor:
        return joined(F.linear(x, down.to(x.dtype)), x.index_select(-1, places))

    def hot(x: Tensor) -> Tensor:
        return joined(F.linear(x, down.to(x.dtype)), F.linear(x, one_hot.to(x.dtype)))

    def apart(x: Tensor) -> Tensor:
        low = F.linear(F.silu(F.linear(x, down.to(x.dtype))), up[:, :RANK].to(x.dtype))
        return GAMMA * low + (1 - GAMMA) * F.linear(x.index_select(-1, places), up[:, RANK:].to(x.dtype))

    def products(x: Tensor, wide: int) -> Tensor:
        first, second = aligned[wide]
        return F.linear(F.linear(x, first.to(x.dtype)), second.to(x.dtype))

    return {
        "CoLA": lambda x: F.linear(F.silu(F.linear(x, down.to(x.dtype))), pair.to(x.dtype)),
        "ours: two autograd functions": own,
        "plain autograd: gather, concatenation, product": plain,
        "torch.compile of that": torch.compile(plain),
        "a one-hot product in place of the gather": hot,
        "two products and a sum": apart,
        **{f"products alone, {wide} inside": partial(products, wide=wide) for wide in aligned},
    }


def three_layers() -> dict[str, Way]:
    """Return q, k and v from one x: products one by one, and joined."""
    downs = [weight(RANK, IN) for _ in range(3)]
    channels = [some_channels() for _ in range(3)]

    def together(x: Tensor) -> Tensor:
        return torch.cat([part for each in narrow_lost(x, downs, channels) for part in each], -1)

    def alone(x: Tensor) -> Tensor:
        halves = [narrow_lost(x, [down], [kept])[0] for down, kept in zip(downs, channels, strict=True)]
        return torch.cat([part for each in halves for part in each], -1)

    return {"first halves one by one": alone, "joined (ours)": together}


def gathers() -> None:
    """Time what moves the kept channels, without products."""
    places = some_channels().long()
    for dtype in (torch.float32, torch.bfloat16):
        x, grad = torch.randn(TOKENS, IN).to(dtype), torch.randn(TOKENS, KEPT).to(dtype)

        def times(call: Callable[[], object]) -> Callable[[], None]:
            return lambda: [call() for _ in range(CALLS)] and None

        def stored(x: Tensor = x, grad: Tensor = grad) -> None:
            x[:, places] += grad

        print(f"\n## The kept channels, {str(dtype).removeprefix('torch.')}\n")
        table(
            {
                "gather (ours)": times(partial(x.gather, 1, places.expand(TOKENS, -1))),
                "index_select": times(partial(x.index_select, 1, places)),
                "their gradient: gather, add, store (ours in bfloat16)": times(stored),
                "their gradient: index_add_ (ours in float32)": times(partial(x.index_add_, 1, places, grad)),
            }
        )


if __name__ == "__main__":
    main()
