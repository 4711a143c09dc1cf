"""Machines leave and join under torchrun: the run goes on by itself at the new world size."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import run_python, wait_until

from lost.data.dataset import Dataset

STEPS = 4000


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    agents: list[subprocess.Popen[bytes]] = []
    yield agents
    for agent in agents:
        agent.kill()
        agent.wait()


def train(config: Path, data: Dataset, out: Path) -> list[str]:
    sets = (f"schedule.steps={STEPS}", "train.save_every=20", "train.log_every=20", "optimizer.lr=1e-3")
    settings = [word for value in sets for word in ("--set", value)]
    return [
        "-m",
        "lost",
        "train",
        str(config),
        "--data",
        str(data.path),
        "--out",
        str(out),
        "--device",
        "cpu",
        *settings,
    ]


def wait_for(run: Path, words: str, times: int, then_steps: int, agent: "subprocess.Popen[bytes]") -> None:
    """Wait until a sentence stands in the log so often, and some more steps are done."""
    wait_until(lambda: (run / "log.txt").exists() and (run / "log.txt").read_text().count(words) >= times, agent)
    done = len(rows(run))
    wait_until(lambda: len(rows(run)) >= done + then_steps // 20, agent)


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


def rows(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().split("\n")[:-1] if (run / "metrics.jsonl").exists() else []
    return [row for row in map(json.loads, lines) if "loss" in row and row["step"] % 20 == 0]


@pytest.mark.slow
def test_a_machine_leaves_and_another_joins(
    tiny_yaml: Path, prepared: Dataset, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """Two agents stand for two machines: one of them is killed, later a new one comes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launcher = ["--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "10", "--rdzv-backend", "c10d",
                "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "elastic", "--local-addr", "localhost",
                "--rdzv-conf", "join_timeout=120,last_call_timeout=3", "--no-python", sys.executable]  # fmt: skip
    run = tmp_path / "run"
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}

    def agent() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "torch.distributed.run", *launcher, *train(tiny_yaml, prepared, run)]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    first = agent()
    wait_until(lambda: answers(port), first)  # where they meet
    second = agent()
    wait_for(run, "and 1 more", 1, 60, first)
    second.send_signal(signal.SIGKILL)
    wait_for(run, "resuming", 1, 60, first)
    agent()
    wait_for(run, "and 1 more", 2, 60, first)
    wait_until(lambda: first.poll() is not None)
    log = (run / "log.txt").read_text()
    assert "the launcher" in log  # whose worker left with it
    assert "stopped at step" in log  # all saved what they had when the new one came
    assert f"done at step {STEPS}" in log
    straight = tmp_path / "straight"
    run_python(*train(tiny_yaml, prepared, straight), check=True)
    found, expected = rows(run), rows(straight)
    assert [row["samples"] for row in found] == [row["samples"] for row in expected]
    np.testing.assert_allclose([row["loss"] for row in found], [row["loss"] for row in expected], rtol=0, atol=1e-4)
