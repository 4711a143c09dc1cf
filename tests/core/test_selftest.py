"""The self-test finds an engine that is wrong."""

from collections.abc import Iterator

import numpy as np
import pytest

from lost.backends.torch.engine import TorchEngine
from lost.config import Config
from lost.engine import selftest
from lost.engine.selftest import self_test
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
    monkeypatch.setattr(selftest, "KINDS", ("dense",))
    checks = {check.quantity: check for check in self_test(wrong) if check.dtype == "float32"}
    assert not any(checks[quantity].passed for quantity in ("logits", "evaluation", "gradients", "losses", "weights"))


def test_not_a_number_never_passes() -> None:
    assert not selftest.Check("lost", "bfloat16", "logits", float("nan")).passed
