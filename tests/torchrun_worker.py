"""What torchrun runs in a worker that it forks: `-m MODULE ...` or `-c PROGRAM ...`, as Python would.

torchrun takes a forked worker that leaves by sys.exit(0) for one that is still busy, and waits for ever.
"""

import runpy
import sys
from pathlib import Path

try:
    runpy.run_path(str(Path(__file__).with_name("forkserver.py")))["run"](sys.argv[1:])
except SystemExit as left:
    if left.code:
        raise
