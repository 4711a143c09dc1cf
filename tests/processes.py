"""Processes of tests: forked where a cold start isn't the point, waited for as long as they may take, not by the clock.

A busy machine makes a process slow, not wrong. What ends a wait is that what was waited for came, that the process
ended (it's killed when its test fails), or that so much time has passed that nothing will come any more.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from threading import Timer
from typing import Any

HANGS = 1200  # seconds: a process of a test that is still there then is killed, and the test that waits for it fails
FORKS = sys.platform == "linux"  # elsewhere the system's own libraries don't survive a fork
_HERE = Path(__file__).parent


class Started(subprocess.Popen):
    """A process whose output is text in pipes."""

    def __init__(self, command: list[str], stderr: int = subprocess.PIPE, env: Mapping[str, str] | None = None) -> None:
        super().__init__(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=env)
        self._end = _end_some_day(self)

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind:
            self.kill()
        super().__exit__(kind, *error)
        self._end.cancel()


class Forked:
    """What tests use of `Started`, for Python with these arguments that starts with torch and its like imported.

    It is forked by another process (see `forkserver`), which says later how it ended.
    """

    def __init__(
        self, arguments: list[str], stderr: int = subprocess.PIPE, env: Mapping[str, str] | None = None
    ) -> None:
        self.args, self.returncode = arguments, None
        read, written = os.pipe()
        self.stdout, self.stderr = os.fdopen(read), None
        ends = [os.open(os.devnull, os.O_RDONLY), written, written]
        if stderr == subprocess.PIPE:
            read, ends[2] = os.pipe()
            self.stderr = os.fdopen(read)
        self._answer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"arguments": arguments, "environment": dict(env or os.environ), "folder": os.getcwd()}
        socket.send_fds(_server(), [json.dumps(request).encode()], [theirs.fileno(), *ends])
        for end in {theirs.detach(), *ends}:
            os.close(end)
        self.pid = int(self._answer.recv(99))
        self._end = _end_some_day(self)

    def poll(self) -> int | None:
        self._answer.setblocking(False)
        try:
            return self.wait()
        except BlockingIOError:
            return None
        finally:
            self._answer.setblocking(True)

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(int(self._answer.recv(99)))
        return self.returncode

    def communicate(self) -> tuple[str, str | None]:
        with ThreadPoolExecutor(1) as pool:
            errors = pool.submit(self.stderr.read) if self.stderr else None
            shown = self.stdout.read()
            self.wait()
            return shown, errors.result() if errors else None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(9)

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind:
            self.kill()
        for pipe in (self.stdout, self.stderr):
            if pipe:
                pipe.close()
        self.wait()
        self._answer.close()
        self._end.cancel()


Process = Started | Forked
Done = subprocess.CompletedProcess[str]


def start_python(*arguments: object, cold: bool = False, stderr: int = subprocess.PIPE, **environment: str) -> Process:
    """Start Python with these arguments: from nothing, as a user does, or else forked where that works."""
    words, env = list(map(str, arguments)), {**os.environ, **environment}
    if FORKS and not cold:
        return Forked(words, stderr, env)
    return Started([sys.executable, *words], stderr, env)


def run_python(*arguments: object, cold: bool = False, check: bool = False, **environment: str) -> Done:
    """Start Python with these arguments, and wait for its end.

    Args:
        arguments: `-m lost train ...`.
        cold: from nothing, rather than forked.
        check: whether any other end than exit code 0 is an error, which shows what it printed.
        environment: variables to add.
    """
    return _done(start_python(*arguments, cold=cold, **environment), check)


def run_command(*command: object, check: bool = False, **environment: str) -> Done:
    """Start a program that isn't this Python, and wait for its end."""
    return _done(Started(list(map(str, command)), env={**os.environ, **environment}), check)


def torchrun_command(workers: int, cold: bool = True) -> list[str]:
    """Return what stands before a worker's arguments so that torchrun starts so many on this host, or forks them."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    if cold or not FORKS:
        return [*launcher, "--no-python", sys.executable]
    return [*launcher, "--start-method", "fork", "--run-path", str(_HERE / "torchrun_worker.py")]


def torchrun(workers: int, *arguments: object, cold: bool = False, **environment: str) -> Done:
    """Run Python with these arguments in several processes under torchrun, which forks them unless they start cold."""
    return run_python(*torchrun_command(workers, cold), *arguments, cold=cold, **environment)


def ring(workers: int, hosts: Path, *arguments: object) -> Done:
    """Run Python with these arguments in several forked processes, which find each other as under mlx.launch.

    Args:
        workers: how many.
        hosts: the file for their addresses.
        arguments: `-m lost train ...`.
    """
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(workers)]
        hosts.write_text(json.dumps([[f"127.0.0.1:{each.getsockname()[1]}"] for each in sockets]))
    started = [start_python(*arguments, MLX_RANK=str(rank), MLX_HOSTFILE=str(hosts)) for rank in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        done = list(pool.map(lambda each: _done(each, False), started))
    code = max(abs(each.returncode) for each in done)
    return Done(arguments, code, *("".join(getattr(each, name) for each in done) for name in ("stdout", "stderr")))


def wait_for_line(process: Process, words: str) -> None:
    """Read what a process prints until a line has these words."""
    assert process.stdout
    if not any(words in line for line in process.stdout):
        errors = process.stderr.read() if process.stderr else ""
        raise AssertionError(f"it ended before it said {words!r}: {errors}")


def wait_for_step(process: Process, step: int) -> None:
    """Read what a run prints until a step is done."""
    wait_for_line(process, f"step {step}/")


def wait_until(condition: Callable[[], bool], process: Process | None = None) -> None:
    """Wait until something holds; no longer than there is a process that can bring it about."""
    until = time.monotonic() + HANGS
    while not condition():
        if process and process.poll() is not None and not condition():
            raise AssertionError(f"it ended with {process.returncode} before what was waited for")
        if time.monotonic() > until:
            raise AssertionError(f"nothing came in {HANGS} s")
        time.sleep(0.1)


def _done(process: Process, check: bool) -> Done:
    with process:
        shown, errors = process.communicate()
    assert not check or process.returncode == 0, f"it ended with {process.returncode}: {errors}"
    return subprocess.CompletedProcess(process.args, process.returncode, shown, errors)


def _end_some_day(process: Process) -> Timer:
    """Kill a process that hangs, so that whoever waits for it or its output goes on."""
    timer = Timer(HANGS, process.kill)
    timer.daemon = True
    timer.start()
    return timer


@cache
def _server() -> socket.socket:
    """Start the fork server of this process, which leaves when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, str(_HERE / "forkserver.py"), str(theirs.fileno())]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # numpy's BLAS would start threads when it's imported
    subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)
    theirs.close()
    return ours
