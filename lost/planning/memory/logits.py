"""How many logits are made at a time, for each backend and device."""

# Logits in a chunk of the head's loss. PyTorch on a CPU is within 7 % of its fastest at 64 MiB of float32, in both
# shapes of benchmarks/head_loss.py. MLX on a CPU loses time below 32 MiB where the vocabulary is large
# (benchmarks/mlx_choices.py). Unmeasured on accelerators: large products keep them busy, and a Mac's memory is shared.
_LOGITS = {
    "torch cpu": 1 << 24,
    "torch mps": 1 << 25,
    "torch cuda": 1 << 27,
    "mlx cpu": 1 << 23,
    "mlx gpu": 1 << 24,
}


def logits_at_once(backend: str, device: str) -> int:
    """Return the number of logits in a chunk of the head's loss."""
    return _LOGITS[f"{backend} {device.partition(':')[0]}"]


def devices_of(backend: str) -> list[str]:
    """Return the kinds of device that a backend's runs can be planned for, a CPU first, what trains fastest last."""
    return [key.partition(" ")[2] for key in _LOGITS if key.startswith(f"{backend} ")]
