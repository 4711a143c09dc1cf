"""What errors of layers' outputs cost: squared gradients on a calibration text, as in FWSVD (arXiv 2207.00112)."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from lost.config import Config
from lost.data.batch import Batch
from lost.engine import create_engine
from lost.optim.adamw import MOMENTS
from lost.storage.arrays import NamedArrays

_MOST_SAMPLES = 200  # the later of them count a tenth more than the first, as AdamW's running mean has it


def gradient_squares_by_row(
    config: Config, parameters: NamedArrays, batches: Iterable[Batch], names: Sequence[str], backend: str, device: str
) -> Mapping[str, np.ndarray]:
    """Return the squared gradients of each weight, added up by rows, (out,) float64.

    They are the second moments that AdamW keeps in steps at rate 0, which change nothing.

    Args:
        config: of the dense model.
        parameters: its.
        batches: one sample each.
        names: of weights.
        backend: to compute with.
        device: as the backend names it.
    """
    still = config.replace("optimizer", name="adamw", betas=[0.0, 0.9995])
    # In bfloat16 small squares wouldn't add up.
    still = still.replace("train", grad_clip=0, compile=False, param_dtype="float32")
    engine = create_engine(still, backend, device)
    engine.load(parameters)
    for batch in islice(batches, _MOST_SAMPLES):
        engine.step([batch], batch.predictions, 0.0).wait()
    wanted = {f"{name}.weight.{MOMENTS[1]}": name for name in names}
    found = ((wanted[name], array) for name, array in engine.optimizer_state() if name in wanted)
    return {name: array.astype(np.float64).sum(axis=1) for name, array in found}
