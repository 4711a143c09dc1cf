"""What each Python that a test starts imports first, where LOST_TEST_AUTO=mlx: `--backend auto` as on Apple silicon."""

import os
import sys

from lost.utils import machine

machine.on_apple_silicon = lambda: True

if "LD_PRELOAD" in os.environ and any(each.endswith("llama_process.py") for each in sys.orig_argv):
    del os.environ["LD_PRELOAD"]  # llama.cpp aborts beside PyTorch's library, which stands in for MLX's BLAS
    os.execv(sys.executable, sys.orig_argv)
