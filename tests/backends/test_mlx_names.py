"""Names in MLX that we rely on: in the library that is installed here, and looked up for Macs at the version we pin."""

import sys
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LIBRARIES = Path(mx.__file__).parent / "lib"


@pytest.fixture
def mlx_names(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import mlx_names

    return mlx_names


def test_the_library_here_has_them(mlx_names: ModuleType) -> None:
    if sys.platform == "darwin":
        parts = {mlx_names.LIBRARY: mlx_names.IN_LIBRARY, mlx_names.KERNELS: mlx_names.IN_KERNELS}
    else:
        parts = {"libmlx.so": mlx_names.ANYWHERE}
    for file, names in parts.items():
        assert mlx_names.gone((LIBRARIES / Path(file).name).read_bytes(), names) == []


def test_they_were_looked_up_at_the_version_that_is_pinned(mlx_names: ModuleType) -> None:
    """Where this fails, `python benchmarks/mlx_names.py > benchmarks/results/mlx_names.md`, and read what is gone."""
    table = (BENCHMARKS / "results" / "mlx_names.md").read_text()
    assert f"mlx-metal {mlx_names.pinned()}\n" in table
    assert table.endswith("missing: 0\n")
    rows = [f"| `{name}` | yes | {why} |" for name, why in (mlx_names.IN_LIBRARY | mlx_names.IN_KERNELS).items()]
    assert [row for row in rows if row not in table] == []


def test_a_name_that_is_gone_is_found(mlx_names: ModuleType) -> None:
    assert mlx_names.gone(b"\0MLX_RANKS\0vjp_rms_64\0", ["MLX_RANK", "vjp_rms", "vjp_rms_64"]) == [
        "MLX_RANK",
        "vjp_rms",
    ]
