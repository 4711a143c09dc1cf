"""Kernels that PyTorch's compiler makes of a block's forward and backward pass, by kind; nothing is compiled or timed.

usage: python benchmarks/inductor_kernels.py [--dtype bfloat16]      (a minute)

Inductor comes to its code as for a CPU, and is stopped before the C++ compiler. What it fuses into one kernel there it
mostly does on a card too, where two sums at once are another kernel; products and attention are PyTorch's own.
"""

import argparse
import copy
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch._inductor.config as inductor
from common import heading
from functorch.compile import make_boxed_func
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.graph import GraphLowering
from torch.fx import GraphModule

from lost.backends.torch.engine import TorchEngine
from lost.data.batch import Batch
from lost.model.init import initial_values
from lost.model.load import load_config

KINDS = ("dense", "lost", "cola", "sltrain")
# No wider than it must be to have every tensor and every fusion of the real one.
SIZES = ("model.hidden_size=64", "model.intermediate_size=96", "model.num_hidden_layers=1", "model.vocab_size=64",
         "model.num_attention_heads=2", "data.seq_len=16", "projection.rank=16", "projection.align=8",
         "train.batch_size=2", "train.micro_batch_size=2", "train.compile=true")  # fmt: skip


class _GeneratedError(Exception):
    """The code is there."""


def counts(kind: str, dtype: str) -> list[Counter[str]]:
    """Return how many kernels of each sort a block's forward pass calls, and its backward pass."""
    found: list[Counter[str]] = []

    def generated(graph: GraphLowering) -> Any:
        found.append(calls(graph.codegen()[0].value))
        raise _GeneratedError

    def counted(graph: GraphModule, inputs: Any, **options: Any) -> Callable[..., Any]:
        plain, before = copy.deepcopy(graph), len(found)
        try:
            compile_fx_inner(graph, inputs, **options)
        except Exception:
            if len(found) == before:
                raise
        return make_boxed_func(plain.forward)

    config = load_config("llama_60m_paper", [*SIZES, f"projection.kind={kind}", f"train.dtype={dtype}"])
    engine = TorchEngine(config, "cpu")
    engine.load(initial_values(config))
    torch._dynamo.reset()
    with (
        tempfile.TemporaryDirectory() as kept,
        mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=kept),
        mock.patch.object(GraphLowering, "compile_to_module", generated),
        torch.compiler.set_stance("default", force_backend=partial(compile_fx, inner_compile=counted)),
        inductor.patch(force_disable_caches=True, **{"cpp.vec_isa_ok": True}),
    ):
        engine.step([Batch(np.zeros((2, 17), np.int32))], 32, 0.01).wait()
    return found


def calls(code: str) -> Counter[str]:
    """Count the kernels that generated code calls."""
    body = code[code.index("def call(") :]
    fused = len(re.findall(r"^\s+cpp_fused_\w+\(", body, re.MULTILINE))
    products = len(re.findall(r"extern_kernels\.(?:\w*mm)\(", body))
    return Counter(fused=fused, products=products, others=len(re.findall(r"= torch\.ops\.aten\.", body)))


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16")
    dtype = parser.parse_args().dtype
    print(heading("Kernels of a compiled block", "torch"), end="; ")
    print(f"{dtype}, fused and products and others, as generated for a CPU\n")
    print("| kind | forward | backward | together |\n| --- | --- | --- | --- |")
    for kind in KINDS:
        passes = counts(kind, dtype)
        cells = [f"{each['fused']} + {each['products']} + {each['others']}" for each in passes]
        print(f"| {kind} | {' | '.join(cells)} | {sum(each.total() for each in passes)} |", flush=True)


if __name__ == "__main__":
    main()
