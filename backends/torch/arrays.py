"""Conversion between numpy arrays, which cross the seam to the core, and tensors; bfloat16 bit by bit."""

import ml_dtypes
import numpy as np
import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Return a CPU tensor on the array's memory."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return an array; on CPU, a view of the tensor."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def arriving(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; the copy to CUDA is one that nothing waits for."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
