"""The self-test of MLX's GPU without TF32: newer ones round float32 products to it unless MLX_ENABLE_TF32=0.

MLX reads that variable once, so it takes another process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

_SWITCH = "MLX_ENABLE_TF32"
_LARGEST = 1e-2  # error that TF32's 11 bits explain in the self-test's tiny models; a guess, not seen on a Mac
_COMMAND = ("-m", "lost", "doctor", "--self-test", "--backend", "mlx", "--device", "gpu", "--json")


def looks_rounded(failed: Sequence[dict[str, Any]]) -> bool:
    """Whether there are failures, and TF32 explains each: in float32 alone, errors that small, not switched off."""
    return (
        bool(failed)
        and os.environ.get(_SWITCH) != "0"
        and all(check.get("dtype") == "float32" and check["error"] <= _LARGEST for check in failed)
    )


def run_again(show: Callable[[str], object]) -> list[dict[str, Any]]:
    """Return the checks of a process whose products are exact, each marked so; `show` gets its lines."""
    done = subprocess.run(
        [sys.executable, *_COMMAND], env={**os.environ, _SWITCH: "0"}, capture_output=True, text=True, check=False
    )
    for line in done.stderr.splitlines():
        show(line)
    try:
        checks = json.loads(done.stdout)["self_test"]
    except (ValueError, KeyError):
        checks = [{"backend": "mlx", "device": "gpu", "reason": f"it ended with {done.returncode}", "passed": False}]
    return [{**check, "tf32": False} for check in checks]
