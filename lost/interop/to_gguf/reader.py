"""llama.cpp as a reader of GGUF files, to check exports; runs don't need it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lost.errors import ExportError
from lost.interop.to_hf.check import Reading

if find_spec("xllamacpp") is None:  # only the process imports it: beside PyTorch it aborts
    raise ImportError("No module named 'xllamacpp'")
VERSION = version("xllamacpp")
_PROGRAM = Path(__file__).with_name("llama_process.py")


def read(file: Path, tokens: Sequence[int], texts: Sequence[str]) -> Reading:
    """Open a file, run the model on tokens and the tokenizer on texts, in a process of its own.

    Raises:
        ExportError: llama.cpp refuses it.
    """
    # -P: the program's folder isn't searched for modules, so that none there can pass for a library.
    done = subprocess.run(
        [sys.executable, "-P", _PROGRAM, file],
        input=json.dumps({"tokens": list(tokens), "texts": list(texts)}),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if " E " in line or "Error" in line]
        raise ExportError(
            f"llama.cpp (xllamacpp {VERSION}) doesn't open the export: {' / '.join(said[:3]) or done.returncode}; "
            "nothing was kept; try another version of it, or report this"
        )
    answer = json.loads(done.stdout)
    return Reading(np.array(answer["scores"], np.float32), answer["ids"])
