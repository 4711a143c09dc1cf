"""The self-test finds an engine that is wrong."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from lost.backends.torch.engine import TorchEngine
from lost.config import Config
from lost.engine import selftest
from lost.engine.selftest import self_test
from lost.projections.dense import Dense
from lost.storage.arrays import NamedArrays


class Wrong(TorchEngine):
    """Loads one weight a little off."""

    def load(self, parameters: NamedArrays) -> None:
        super().load(self._off(parameters))

    def _off(self, parameters: NamedArrays) -> Iterator[tuple[str, np.ndarray]]:
        for name, value in parameters:
            yield name, value + np.float32(1e-3) if name == "model.layers.1.mlp.up_proj.weight" else value


def wrong(config: Config) -> TorchEngine:
    return Wrong(config, "cpu")


def test_a_wrong_engine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "KINDS", {"dense": Dense})
    checks = {check.quantity: check for check in self_test(wrong) if check.dtype == "float32"}
    assert not any(checks[quantity].passed for quantity in ("logits", "evaluation", "gradients", "losses", "weights"))


@pytest.mark.parametrize("factor", [1.001, -1.0])
def test_a_wrong_gradient_of_wide_heads_alone_fails(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """As of a fused kernel that tiny heads never reach: the loss is right."""
    attention = functional.scaled_dot_product_attention

    def wrong(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **more: Any) -> torch.Tensor:
        if query.shape[-1] >= 64 and value.requires_grad:
            value = value.clone()
            value.register_hook(lambda gradient: gradient * factor)
        return attention(query, key, value, **more)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", wrong)
    monkeypatch.setattr(selftest, "KINDS", {"dense": Dense})
    checks = [check for check in self_test(lambda config: TorchEngine(config, "cpu")) if check.dtype == "float32"]
    failed = {(check.kind, check.quantity) for check in checks if not check.passed}
    assert failed == {("head 64", "gradients"), ("head 128", "gradients")}


def test_not_a_number_never_passes() -> None:
    assert not selftest.Check("lost", "bfloat16", "logits", float("nan")).passed
