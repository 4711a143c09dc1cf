"""Commands that one process does alone, under launchers that start several."""

from collections.abc import Callable
from pathlib import Path

import pytest

Lost = Callable[..., object]
UNDER = {
    "torchrun": {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1"},
    "mlx.launch": {"MLX_RANK": "1", "MLX_HOSTFILE": "FOLDER/hosts"},
    "mpirun": {"OMPI_COMM_WORLD_SIZE": "2"},
}


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lost.cli.main.leave_with_launcher", lambda: None)


def launched(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: Path) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("FOLDER", str(folder)))


@pytest.mark.parametrize("launcher", UNDER)
@pytest.mark.parametrize("command", [("eval",), ("eval", "--every-checkpoint"), ("generate",), ("chat",), ("inspect",)])
def test_each_would_do_all_of_it(
    lost: Lost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], launcher: str
) -> None:
    (tmp_path / "hosts").write_text("[]")
    launched(monkeypatch, UNDER[launcher], tmp_path)
    answer = lost(command[0], tmp_path, *command[1:])
    assert answer.code == 2
    assert f"{launcher} started several processes, each of which would do all of this" in " ".join(answer.err.split())


@pytest.mark.parametrize(
    "variables",
    [
        {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "1"},
        {"MLX_RANK": "0", "MLX_HOSTFILE": "FOLDER/hosts"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"WORLD_SIZE": "2"},  # of a pod that others run beside, without a launcher in it
    ],
)
def test_one_process_is_no_more_under_a_launcher(
    lost: Lost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    (tmp_path / "hosts").write_text("")
    launched(monkeypatch, variables, tmp_path)
    assert "holds no model" in lost("generate", tmp_path).err
