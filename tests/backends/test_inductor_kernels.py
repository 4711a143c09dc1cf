"""Kernels that PyTorch's compiler makes of a LOST block: no more than benchmarks/results/inductor_kernels.md has."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_a_compiled_block_has_few_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute of Inductor: products are the block's seven pairs, those with one input made together."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from inductor_kernels import counts

    forward, backward = counts("lost", "bfloat16")
    assert (forward["products"], backward["products"]) == (11, 22)
    assert forward["fused"] <= 9
    assert backward["fused"] <= 18
