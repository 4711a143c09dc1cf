"""Samples weighed by their loss within the batch (arXiv 2502.06733) beside samples that count alike, at equal tokens.

usage: python benchmarks/reweighting.py DATA WORK > benchmarks/results/reweighting.md      (10 minutes of one core)

DATA is a prepared set. WORK keeps every run: what is there already isn't trained again.
"""

import json
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from common import heading

from lost.backends.torch.engine import TorchEngine
from lost.config import Config
from lost.data.batch import Batch
from lost.data.dataset import Dataset
from lost.engine import StepResult
from lost.tracking import Tracker
from lost.training.trainer import train

STEPS, WARM_UP, SEEDS = 250, 50, (1, 2)
CONFIG = {
    "model": {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 2, "num_attention_heads": 4,
              "use_qk_norm": True},
    "projection": {"rank": 32, "short_conv_width": 3},
    "data": {"seq_len": 128},
    "train": {"batch_size": 8, "micro_batch_size": 8, "eval_every": 0, "eval_tokens": 65536, "log_every": 50},
    "optimizer": {"name": "muon", "lr": 3e-3, "weight_decay": 0.01},
    "schedule": {"steps": STEPS, "warmup_steps": 25},
}  # fmt: skip


class Weighed(TorchEngine):
    """An engine in which the gradient of a sample counts for more or less, by its loss before the step."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, "cpu")
        self._steps, self._weights = 0, deque[float]()

    def step(self, micro_batches: Iterable[Batch], predictions: int, lr: float) -> StepResult:
        """Take a step, sample by sample."""
        batches = list(micro_batches)
        self._steps += 1
        if self._steps > WARM_UP:
            (nll, _), *_ = self.score(batches)
            self._weights.extend(weights(nll.mean(axis=1)))
            batches = [Batch(row[None]) for row in batches[0].tokens]
        return super().step(batches, predictions, lr)

    def _losses(self, batch: Batch) -> torch.Tensor:
        sums = super()._losses(batch)
        return sums * self._weights.popleft() if self._weights else sums


def weights(losses: np.ndarray) -> np.ndarray:
    """Return weights of mean 1: from none at the lowest loss, linearly to the middle of the range, then alike."""
    placed = 2 * (losses - losses.min()) / max(np.ptp(losses), 1e-9) - 1
    linear = np.minimum(placed + 1, 1.0)
    return linear / linear.mean()


def validated(data: Dataset, work: Path, weighed: bool, seed: int) -> float:
    """Return a run's validation loss."""
    file = work / f"{'weighed' if weighed else 'alike'}-{seed}.json"
    if not file.exists():
        config = Config.model_validate(CONFIG).replace("train", seed=seed)
        config = config.replace("model", vocab_size=data.tokenizer.vocab_size)
        engine = Weighed(config) if weighed else TorchEngine(config, "cpu")
        folder = work / file.stem
        folder.mkdir(exist_ok=True)
        result = train(config, folder, data, engine, Tracker())
        assert result.validation
        file.write_text(json.dumps(result.validation.loss))
    return float(json.loads(file.read_text()))


def main(data: Path, work: Path) -> None:
    """Print one table."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    dataset = Dataset(data)
    print(f"{heading('Samples weighed by their loss', 'torch', words='DATA WORK')}, one thread, float32.")
    print(f"LOST, 128 wide, 2 blocks, {STEPS} steps of 8 x 128 tokens, weighed after {WARM_UP}.\n")
    print("| samples | validation loss, by seed | mean |\n| --- | --- | --- |")
    for weighed, name in ((False, "count alike"), (True, "weighed by their loss")):
        losses = [validated(dataset, work, weighed, seed) for seed in SEEDS]
        print(f"| {name} | {', '.join(f'{each:.4f}' for each in losses)} | {mean(losses):.4f} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
