"""Steps of the real engine on a card that isn't there: shapes and devices are PyTorch's, nothing is computed.

python fake_cuda.py LIBRARY CASES    LIBRARY: `fake_cuda.cpp`, built; CASES: JSON, overrides of a configuration by name.
                                     Writes JSON: what `measured` returns, by name.
"""

import ctypes
import json
import sys
import weakref
from collections import Counter
from typing import Any

if __name__ == "__main__":
    ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)  # before PyTorch, which then asks this library, not its own

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lost.backends.torch.devices as devices
import lost.backends.torch.kernels.loss as loss
from lost.backends.torch.distillation.teacher import taught
from lost.backends.torch.engine import TorchEngine
from lost.backends.torch.model import AttentionContext
from lost.bench.compare import random_batches
from lost.config import Config
from lost.data.batch import SoftTargets
from lost.model.load import load_config
from lost.planning.budget import budget

# One kernel each with CUDA; built without it, PyTorch would make them of several operations.
FUSED = ("silu_backward", "_fused_rms_norm", "_fused_rms_norm_backward")
NO_LAUNCHES = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "promote_types", "is_pinned"}
ALLOCATED = 512  # CUDA's allocator gives multiples of so many bytes


class Watch(TorchDispatchMode):
    """What the operations under it would do to the device: launches, copies that the host waits for, peak in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = self.peak = self._held = 0
        self.launches: Counter[str] = Counter()
        self._storages: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.namespace != "aten":
            return result
        tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor)]
        places = {each.device.type for each in tensors}
        name = function._schema.name.partition("::")[2]
        if "cuda" not in places:
            return result
        if name in {"copy_", "_to_copy"} and "cpu" in places:
            self.copies += not (kwargs or {}).get("non_blocking", name == "copy_" and args[2:] == (True,))
        elif not function.is_view and name not in NO_LAUNCHES:
            self.launches[name] += 1
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.device.type == "cuda":
                self.hold(each)
        return result

    def hold(self, tensor: Tensor) -> None:
        """Count the memory of a tensor from now on, until it is freed."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            size = -(-storage.nbytes() // ALLOCATED) * ALLOCATED
            self._storages.add(storage._cdata)
            self._held += size
            self.peak = max(self.peak, self._held)
            weakref.finalize(storage, self._free, storage._cdata, size)

    def _free(self, key: int, size: int) -> None:
        self._storages.remove(key)
        self._held -= size


def measured(config: Config) -> dict[str, Any]:
    """Return what a step does to the device, and a block.

    PyTorch refuses to mix devices, and to tell the host a value, for which it would wait.
    """
    engine, watch = TorchEngine(config, "cuda"), Watch()
    loss.compiled.cache_clear()
    batches = list(random_batches(config))
    with watch:
        for tensor in engine._held.values():
            watch.hold(tensor)
        engine.step(batches[:1], batches[0].predictions, 1e-3)  # which makes the moments
        watch.copies = watch.peak = 0
        engine.step(batches, sum(batch.predictions for batch in batches), 1e-3)
    gradients = [held.grad for held in engine._trained.values() if held.grad is not None]
    forward, backward = launches(engine, config)
    with Watch() as norm:
        engine._squares(gradients)
    engine._scores(batches[0], likeliest=True)
    shape = (*batches[0].tokens[:, 1:].shape, 2)
    with Watch() as soft:
        taught(SoftTargets(np.zeros(shape, np.int32), np.zeros(shape, np.float32)), engine._device)
    return {
        "block": [each.total() for each in (forward, backward)],
        "fused_losses": loss.compiled.cache_info().hits + loss.compiled.cache_info().misses,
        "attention": [name for name in forward if "attention" in name],
        "norm": norm.launches.total(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "copies": watch.copies / len(batches) + soft.copies,
        "peak": watch.peak,
        "estimate": budget(config, "torch", "cuda").memory.total,
    }


def launches(engine: TorchEngine, config: Config) -> list[Counter[str]]:
    """Return the launches of a block's forward and backward pass, by name."""
    trunk, length, forward, backward = engine.model.model, config.data.seq_len, Watch(), Watch()
    shape = (config.train.micro_batch, length, config.model.hidden_size)
    x = torch.empty(shape, device=engine.device, dtype=trunk.dtype, requires_grad=True)
    context = AttentionContext((trunk.cos[:length].to(trunk.dtype), trunk.sin[:length].to(trunk.dtype)))
    engine.model.zero_grad()
    with forward:
        y = trunk.layers[0](x, context)
    y_grad = torch.empty_like(y)
    with backward:
        y.backward(y_grad)
    return [forward.launches, backward.launches]


def main() -> None:
    """Answer the command line."""
    devices.available = lambda: ["cuda", "cpu"]
    torch.cuda.device_count = lambda: 1
    torch.cuda.set_device = lambda device: None
    Tensor.pin_memory = lambda tensor, *device: tensor
    kernels = torch.library.Library("aten", "IMPL")
    for name in FUSED:
        kernels.impl(name, lambda *arguments: None, "CUDA")  # that there is one is all that matters
    found = {}
    for name, overrides in json.loads(sys.argv[2]).items():
        with FakeTensorMode(allow_non_fake_inputs=True):
            try:
                with torch.compiler.set_stance("force_eager"):  # shapes alone can't be compiled
                    found[name] = measured(load_config("llama_1b_paper", overrides))
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {str(error)[:400]}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
