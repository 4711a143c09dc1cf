"""The device that PyTorch's engines are tested on: what LOST_TEST_DEVICE names, else the CPU."""

import os

import pytest

from lost.backends.torch.devices import resolve
from lost.errors import BackendError

NAME = "LOST_TEST_DEVICE"


def _resolved() -> str:
    name = os.environ.get(NAME) or "cpu"
    try:
        return resolve(name)
    except BackendError as error:
        pytest.exit(f"{NAME}={name} can't be tested on: {error}", pytest.ExitCode.USAGE_ERROR)


TORCH = _resolved()


def device_of(backend: str) -> str:
    """The device that a backend is tested on; MLX's is the CPU."""
    return TORCH if backend == "torch" else "cpu"
