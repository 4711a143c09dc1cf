"""The registry of backends: resolution of `auto`, and messages where a backend can't be loaded."""

import importlib.metadata
import platform
import sys
from importlib import import_module
from types import ModuleType

import pytest

from lost.engine import backend_module, registry, resolve_backend
from lost.errors import BackendError
from lost.utils.machine import on_apple_silicon


@pytest.mark.parametrize(
    ("apple", "installed", "expected"),
    [
        (True, {"torch", "mlx.core"}, "mlx"),
        (True, {"torch"}, "torch"),
        (False, {"torch", "mlx.core"}, "torch"),
        (False, {"mlx.core"}, "mlx"),
        (False, set(), "torch"),
    ],
)
def test_auto(monkeypatch: pytest.MonkeyPatch, apple: bool, installed: set[str], expected: str) -> None:
    monkeypatch.setattr(registry, "on_apple_silicon", lambda: apple)
    monkeypatch.setattr(registry, "find_spec", lambda name: object() if name in installed else None)
    assert resolve_backend("auto") == expected
    assert resolve_backend("torch") == "torch"


def test_auto_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "on_apple_silicon", lambda: True)
    monkeypatch.setattr(registry, "_installed", lambda package: True)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert resolve_backend("auto") == "mlx"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert resolve_backend("auto") == "torch"


@pytest.mark.parametrize(
    ("system", "architecture", "expected"),
    [("darwin", "arm64", True), ("darwin", "x86_64", False), ("linux", "arm64", False)],
)
def test_apple_silicon(monkeypatch: pytest.MonkeyPatch, system: str, architecture: str, expected: bool) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    assert on_apple_silicon() is expected


def without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have the backend imported anew."""
    for module in [module for module in sys.modules if module.startswith(f"lost.backends.{name}")]:
        monkeypatch.delitem(sys.modules, module)


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "mlx")
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(
        BackendError, match=r"can't be loaded: .*mlx.core.*; install it with: pip install .*mlx"
    ) as info:
        backend_module("mlx")
    assert "\n" not in str(info.value)


def test_old(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "mlx")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.29.1")
    with pytest.raises(BackendError, match=r"mlx 0\.29\.1 is older than 0\.32\.2; .*pip install --upgrade"):
        backend_module("mlx")


@pytest.mark.parametrize("error", [OSError("libmlx.so: cannot open\nshared object file"), AttributeError("no matmul")])
def test_broken(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(name: str) -> ModuleType:
        if name == "lost.backends.mlx":
            raise error
        return import_module(name)

    monkeypatch.setattr(registry, "import_module", broken)
    with pytest.raises(BackendError, match=r"can't be loaded: .*install it with: pip install --upgrade") as info:
        backend_module("mlx")
    assert "\n" not in str(info.value)
    assert backend_module("torch")
