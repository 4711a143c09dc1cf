"""A trace of what PyTorch does, for a browser: operators on the CPU, kernels on a card."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from lost.storage.nofollow import remove


def tracing(device: str) -> Callable[[Path], AbstractContextManager[Path]]:
    """Return what traces; given a path without a suffix, it yields the file that is written at its end."""

    @contextmanager
    def trace(path: Path) -> Iterator[Path]:
        from torch.profiler import ProfilerActivity, profile

        file = path.with_suffix(".json")
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler writes to standard error when it starts
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.startswith("cuda") else [])]
        with profile(activities=activities) as recorded:
            yield file
        remove(file)
        recorded.export_chrome_trace(str(file))

    return trace
