"""Backends: each executes, in one framework, what the core decides. None imports another."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # that each is a backend is for mypy to see; importing one imports its framework
    from lost.backends import mlx, torch
    from lost.engine import Backend

    TORCH: Backend = torch
    MLX: Backend = mlx
