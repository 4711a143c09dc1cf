"""`lost doctor`: what is here, and whether it computes the right thing."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lost.engine import BACKENDS
from lost.engine.selftest import kinds_tested
from lost.projections.dense import Dense

Lost = Callable[..., object]


def test_doctor(lost: Lost) -> None:
    value = json.loads(lost("doctor", "--json").out)
    assert value["ready"]
    assert "cpu" in value["backends"]["torch"]["devices"]
    assert value["packages"]["numpy"] == np.__version__


def test_what_is_missing_is_named_with_the_command_that_adds_it(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [
        "numpy>=2",
        'numpy>=2; extra == "here"',
        'none-such[with]>=1,<2; extra == "gone"',
        'nor-this; extra == "dev"',
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needed)
    assert json.loads(lost("doctor", "--json").out)["missing"] == {"gone": ["none-such"]}


def test_self_test(lost: Lost) -> None:
    """On the CPU of both backends, against the numpy reference; what is seen elsewhere is printed likewise."""
    answer = lost("doctor", "--self-test", "--device", "cpu", "--json")
    assert answer.code == 0, answer.err
    head, *rows = answer.err.splitlines()
    assert head.split() == ["errors", "logits", "evaluation", "gradients", "losses", "weights"]
    assert all(row.endswith("  ok") and len(row) < 100 for row in rows)
    assert json.loads(answer.out)["ready"]
    checks = json.loads(answer.out)["self_test"]
    kinds = kinds_tested()
    assert {(check["backend"], check["kind"], check["dtype"]) for check in checks} == {
        (backend, kind, dtype)
        for backend in BACKENDS
        for kind in (*kinds, "head 64", "head 128")
        for dtype in ("float32", "bfloat16")
    }
    assert {check["quantity"] for check in checks} == {"logits", "evaluation", "gradients", "losses", "weights"}
    assert all(check["passed"] for check in checks)
    assert max(check["error"] for check in checks if check["dtype"] == "float32") < 1e-5
    assert answer.err.count("ok") == 2 * 2 * (len(kinds) + 2)


def test_self_test_reports_what_a_device_throws(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    def throw(*arguments: object) -> None:
        raise RuntimeError("[metal::load_kernel] unknown")

    monkeypatch.setattr("lost.backends.mlx.engine.MlxEngine.step", throw)
    answer = lost("doctor", "--self-test", "--backend", "mlx", "--device", "cpu", "--json")
    assert answer.code == 1
    value = json.loads(answer.out)
    assert value["self_test"][-1]["reason"] == "RuntimeError: [metal::load_kernel] unknown"
    assert not value["ready"]
    shown = lost("doctor", "--self-test", "--backend", "mlx", "--device", "cpu").out.splitlines()
    assert shown[-1] == "not ready to train: the self-test failed"


@pytest.mark.parametrize(("error", "code"), [(1e-4, 0), (1e-1, 1)])
def test_self_test_without_tf32(lost: Lost, monkeypatch: pytest.MonkeyPatch, error: float, code: int) -> None:
    """A GPU, the CPU in its place, that rounds unless MLX_ENABLE_TF32=0 is set: tested again, and found right.

    What no rounding explains fails at once.
    """
    from lost.backends import mlx
    from lost.backends.mlx.engine import MlxEngine
    from lost.engine import selftest

    load, run, environments = MlxEngine.load, subprocess.run, []

    def rounding(engine: MlxEngine, parameters: Any) -> None:
        exact = engine._config.train.dtype == "bfloat16"
        load(engine, ((n, v if exact or v.dtype == np.int32 else v * np.float32(1 + error)) for n, v in parameters))

    def exact(command: list[str], **more: Any) -> Any:
        if command[0] != sys.executable:  # what the machine is asked about itself
            return run(command, **more)
        assert command[1:] == ["-m", "lost", "doctor", "--self-test", "--backend", "mlx", "--device", "gpu", "--json"]
        environments.append(more["env"])
        check = {"kind": "lost", "dtype": "float32", "error": 1e-7, "passed": True}
        return subprocess.CompletedProcess(command, 0, json.dumps({"self_test": [check]}), "")

    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    monkeypatch.setattr(mlx, "available", lambda: ["gpu"])
    monkeypatch.setattr(mlx, "capacity", lambda device: 1 << 30)
    monkeypatch.setattr("lost.backends.mlx.devices.resolve", lambda name: "cpu")
    monkeypatch.setattr(MlxEngine, "load", rounding)
    monkeypatch.setattr(selftest, "KINDS", {"dense": Dense})
    monkeypatch.setattr(subprocess, "run", exact)
    answer = lost("doctor", "--self-test", "--backend", "mlx", "--json")
    assert answer.code == code, answer.err
    checks = json.loads(answer.out)["self_test"]
    assert [each["MLX_ENABLE_TF32"] for each in environments] == (["0"] if code == 0 else [])
    rounded = [check for check in checks if check["error"] > 1e-5 and check["dtype"] == "float32"]
    assert rounded
    assert all(check["passed"] == check.get("tf32", False) == (code == 0) for check in rounded)
    assert ("once more with MLX_ENABLE_TF32=0" in answer.err) == (code == 0)
    assert [check["kind"] for check in checks if check.get("tf32") is False] == (["lost"] if code == 0 else [])
