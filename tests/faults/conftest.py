"""What several tests of faults need."""

import subprocess
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def wait_for_step() -> Callable[["subprocess.Popen[str]", int], None]:
    """Read what a run prints until a step is done."""

    def wait(process: "subprocess.Popen[str]", step: int) -> None:
        assert process.stdout
        for line in process.stdout:
            if line.startswith(f"step {step}/"):
                return
        raise AssertionError(f"the run ended before step {step}")

    return wait
