"""Commands of ours and their answers, for scripts that measure whole commands."""

import json
import os
import shlex
import subprocess
import sys
from typing import Any


def lost(*words: object) -> dict[str, Any]:
    """Run a command in a process of its own, and return its `--json` answer; the script ends where it fails.

    On one thread, unless OMP_NUM_THREADS says otherwise.
    """
    command = [sys.executable, "-m", "lost", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1", **os.environ})
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}: {done.stderr}")
    return dict(json.loads(done.stdout))
