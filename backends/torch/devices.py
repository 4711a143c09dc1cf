"""Devices that PyTorch sees here, and their memory. The only file that queries them."""

import getpass
import os
import re
import shutil
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

from lost.distributed.launcher import local_rank
from lost.errors import BackendError, UserError
from lost.utils.machine import memory_bytes, process_peak_bytes

_USABLE = 0.92  # share of a CUDA device's memory; a guess, not measured


def resolve(name: str) -> str:
    """Return the device meant by `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; under torchrun, `cuda` is the local one.

    A CUDA device becomes the current one: whatever names none (pinned memory, FSDP, NCCL) would take room on card 0.

    Raises:
        BackendError: it isn't available; the message names those that are.
    """
    if name == "auto":
        name = available()[0]
    match = re.fullmatch(r"(cpu|mps|cuda)(?::(\d+))?", name)
    if match is None:
        raise BackendError(f"--device {name}: PyTorch devices are auto, cpu, cuda, cuda:N and mps; name one of these")
    kind, number = match.groups()
    if kind not in available():
        raise BackendError(
            f"--device {name}: PyTorch {torch.__version__} sees no such device here; available: "
            f"{', '.join(available())}; choose one of these, or install a PyTorch build that supports it"
        )
    if kind != "cuda":
        return name
    number = number or str(local_rank()[0])
    if int(number) >= torch.cuda.device_count():
        raise BackendError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0; expected one for "
            "each process; start fewer processes, or choose another device"
        )
    torch.cuda.set_device(int(number))
    return f"cuda:{number}"


def available() -> list[str]:
    """Return the kinds of device that work here, the fastest first."""
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [kind for kind, works in kinds.items() if works]


def name_compiled_code() -> None:
    """Name PyTorch's folder of compiled code where it can't.

    It asks for the user's name, which a container may not know: a KeyError until a fix of 2026 (pytorch#140765).
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        folder = Path(tempfile.gettempdir(), f"torchinductor_{os.getuid()}")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def capacity(device: str) -> int:
    """Return the memory in bytes that a run may take: on a CPU, this process's share of all, used or not.

    On CUDA, what no other process holds, but not all of it: contexts, workspaces and gaps between tensors take some.
    """
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return min(free + torch.cuda.memory_reserved(device), int(_USABLE * total))
    if device == "mps":
        return torch.mps.recommended_max_memory()
    return memory_bytes() // local_rank()[1]


def be_deterministic(device: str) -> None:
    """Have this process compute in a fixed order from now on; attention leaves out cuDNN's kernels, which don't.

    Raises:
        BackendError: the device has no such order.
    """
    if device == "mps":
        raise BackendError(
            "train.deterministic = true: PyTorch doesn't promise it on mps; expected CUDA or a CPU; remove it"
        )
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):  # others are refused by PyTorch
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"  # no choice of compiled kernels by their times
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads any


def set_matmul_precision(device: str, precision: str) -> None:
    """Have this process take CUDA's products of float32 with `precision`, as PyTorch names it, from now on."""
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision(precision)


def compiles(device: str) -> bool:
    """Return whether training on a device is compiled unless the configuration says otherwise: CUDA, where that works.

    It takes Triton, the C compiler that Triton calls, Python's headers, which that compiler includes, and a card of
    Volta's generation or a later one.
    """
    if not device.startswith("cuda") or not find_spec("triton"):
        return False
    own = os.environ.get("CC")  # which Triton takes for one name, and nothing else if it is set
    has_compiler = any(map(shutil.which, ("gcc", "clang") if own is None else (own,)))
    # A distribution's own Python is without them unless its package python3-dev is installed.
    has_headers = os.path.isfile(os.path.join(sysconfig.get_path("include", "posix_prefix"), "Python.h"))
    return has_compiler and has_headers and torch.cuda.get_device_capability(device) >= (7, 0)


def check_generation() -> None:
    """Do nothing: generation takes no other package."""


def wire(size: int, device: str) -> None:
    """Refuse: PyTorch wires no memory.

    Raises:
        UserError: always.
    """
    raise UserError("--wired-gib: only --backend mlx can wire memory; leave it out")


def forget_peak(device: str) -> None:
    """Begin the peak of `memory` anew, where it is a device's and not the process's."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: str) -> dict[str, int]:
    """Return bytes as `lost.engine.Engine.memory` names them: allocated on CUDA, the process's peak on CPU.

    MPS records no peak: there, what the driver holds now, which seldom shrinks.
    """
    if device.startswith("cuda"):
        active = torch.cuda.memory_allocated(device)
        return {
            "memory_bytes": torch.cuda.max_memory_allocated(device),
            "memory_active_bytes": active,
            "memory_cache_bytes": torch.cuda.memory_reserved(device) - active,
        }
    if device == "mps":
        return {"memory_bytes": torch.mps.driver_allocated_memory()}
    return {"memory_bytes": process_peak_bytes()}
