"""A process that has imported the packages which take seconds, and forks where a test would start Python anew.

What it forks is as a process just begun, lost's own modules not yet imported, and ends as every Python does; only the
hash seed is that of all its siblings. `processes` starts it, on Linux alone: elsewhere libraries don't survive a fork.

python forkserver.py SOCKET    each message on the socket's descriptor asks for one process: JSON, and the descriptors
                               of an answer, standard input, output and error. The answer: its number, later its status.
"""

import gc
import json
import os
import runpy
import selectors
import socket
import sys
from importlib import import_module

PRELOADED = (
    "numpy", "scipy.linalg", "scipy.special", "pydantic", "yaml", "typer", "rich.live", "rich.progress", "rich.table",
    "safetensors", "sentencepiece", "ml_dtypes", "threadpoolctl", "torch", "torch._dynamo", "torch.distributed.fsdp",
    "torch.distributed.launcher.api", "torch.utils.checkpoint", "mlx.core", "mlx.nn", "mlx.optimizers",
)  # fmt: skip
MESSAGE_BYTES = 1 << 17  # arguments and an environment, which the kernel takes in one piece


def serve(requests: socket.socket) -> list[str]:
    """Fork what is asked for until nobody can ask any more; return the arguments in each process forked."""
    running: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as ready:
        ready.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is not requests:
                    child, answer = running.pop(key.fd)
                    answer.sendall(b"%d" % os.waitpid(child, 0)[1])
                    answer.close()
                    ready.unregister(key.fd)
                    os.close(key.fd)
                    continue
                message, descriptors, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 4)
                if not message:
                    sys.exit()
                child = os.fork()
                if child == 0:
                    ready.close()
                    requests.close()
                    for end, (_, answer) in running.items():
                        os.close(end)
                        answer.close()
                    return begin(json.loads(message), descriptors)
                answer = socket.socket(fileno=descriptors[0])
                answer.sendall(b"%d" % child)
                for each in descriptors[1:]:
                    os.close(each)
                end = os.pidfd_open(child)
                running[end] = (child, answer)
                ready.register(end, selectors.EVENT_READ)


def begin(request: dict, descriptors: list[int]) -> list[str]:
    """Take on what a process is started with; return its arguments."""
    os.close(descriptors[0])
    for number, descriptor in enumerate(descriptors[1:]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return request["arguments"]


def run(arguments: list[str]) -> None:
    """Do what Python does with these arguments: -m MODULE ..., -c PROGRAM ..., or FILE ..."""
    match arguments:
        case ["-m", module, *rest]:
            sys.argv, sys.path[0] = [module, *rest], os.getcwd()
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", program, *rest]:
            sys.argv, sys.path[0] = ["-c", *rest], ""
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        case [file, *_]:
            sys.argv, sys.path[0] = arguments, os.path.dirname(file)
            runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    for name in PRELOADED:
        import_module(name)
    gc.freeze()  # what is here by now is not looked through, and so not copied, in what is forked
    assert len(os.listdir("/proc/self/task")) == 1, "a fork takes only one thread along"
    run(serve(socket.socket(fileno=int(sys.argv[1]))))
