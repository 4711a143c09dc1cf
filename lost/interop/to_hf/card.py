"""The model card of an export: the model, its training data and recipe, measurements, how to open it."""

import json
from pathlib import Path
from typing import Any

import lost
from lost.checkpoint import Checkpoint
from lost.config import Config
from lost.data.dataset import TRAIN
from lost.data.mixture import Mixture, open_dataset
from lost.errors import DataError
from lost.evaluation.perplexity import perplexity
from lost.interop.layout import architecture
from lost.planning import budget
from lost.storage.nofollow import resolved
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.metrics import read_lines
from lost.utils.parsing import parse_json

_FRONT = """\
---
library_name: transformers
pipeline_tag: text-generation
license: other
license_name: not-chosen-yet
tags:
- {tag}
- lost-pretrain
- mlx
---
"""

_OPEN = """\
## Open it

With transformers 4.57 or newer:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH"{code})
model = AutoModelForCausalLM.from_pretrained("PATH"{code})
inputs = tokenizer("Once", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0]))
```

With mlx-lm:

```
mlx_lm.generate --model PATH --prompt "Once" --ignore-chat-template{flag}
mlx_lm.server --model PATH{flag}
```
{why}
It is a base model: it continues text and follows no instructions. In training every text stood behind the end-of-text
token, which no tokenizer adds by itself.
"""

_CODE = """
The flag lets them run the model's own layers, which stand in `modeling_lost.py` and `mlx_lost.py` beside the weights.
"""


def card(source: Checkpoint, target: Config, dtype: str) -> str:
    """Return README.md.

    Args:
        source: what is exported.
        target: the configuration of the exported model.
        dtype: of its weights.
    """
    run = source.path.parent.parent if source.path.parent.name == "checkpoints" else source.path
    known = architecture(target)
    exceptions = (each["kind"] for each in target.projection.overrides.values() if "kind" in each)
    kinds = sorted({target.projection.kind, *exceptions})
    what = (known or f"Llama with {' and '.join(kinds)} layers").removesuffix("ForCausalLM")
    merged = " Its layers are merged from factors." if target.projection != source.config.projection else ""
    count, twin = (budget.budget(each).parameters for each in (target, budget.dense_twin(target)))
    dense = "" if known else f" (a dense one of its shape: {twin:,})"
    sections = [
        _FRONT.format(tag="llama" if known else "lost"),
        f"# {resolved(run).name}\n",
        f"A {what} of {count:,} parameters{dense} in {dtype}, made with "
        f"[lost-pretrain](https://arxiv.org/abs/2508.02668) {lost.__version__}.{merged}\n",
        "Licence: none was chosen yet. Whoever publishes this model puts it here and into the first lines.\n",
        *(_training(run, source) if source.progress.step else ["It was imported, and not trained further.\n"]),
        _OPEN.format(
            code="" if known else ", trust_remote_code=True",
            flag="" if known else " --trust-remote-code",
            why="" if known else _CODE,
        ),
    ]
    return "\n".join(sections)


def _training(run: Path, source: Checkpoint) -> list[str]:
    numbers = {"step": source.progress.step, "tokens seen": f"{source.progress.tokens:,}", **_measured(run, source)}
    recipe = _table(_recipe(source.config))
    return ["## Numbers\n", _table(numbers), "## Data\n", _data(source.config), "## Recipe\n", recipe]


def _measured(run: Path, source: Checkpoint) -> dict[str, str]:
    """Return the last figures that the run reported up to the exported step."""
    figures: dict[str, Any] = {}
    if (run / METRICS).exists():
        for line in _lines(run / METRICS):
            try:
                row = parse_json(line)
                figures |= row if row["step"] <= source.progress.step else {}
            except (ValueError, TypeError, KeyError):
                continue  # truncated by a crash, or not a row: `lost verify` reports it
    elif source.progress.validation_loss is not None:
        loss = source.progress.validation_loss
        figures = {"validation_loss": loss, "perplexity": perplexity(loss)}
    names = {"loss": "training loss", "validation_loss": "validation loss", "perplexity": "validation perplexity"}
    names["bits_per_byte"] = "bits per byte of the validation text"
    return {shown: f"{figures[key]:.4f}" for key, shown in names.items() if isinstance(figures.get(key), int | float)}


def _lines(path: Path) -> list[bytes]:
    try:
        return read_lines(path)
    except OSError:
        return []  # no file of ours


def _data(config: Config) -> str:
    try:
        dataset = open_dataset(config.data)
        split, name = dataset.split(TRAIN), dataset.path.name
    except DataError:
        return f"`{Path(config.data.path or 'unknown').name}`; describe it here.\n"
    counts = f"{split.documents:,} documents, {split.bytes:,} bytes, {split.tokens:,} tokens"
    if isinstance(dataset, Mixture):
        shares = zip(dataset.shares(), dataset.sets, strict=True)
        name = ", ".join(f"{each.path.name} ({share:.0%} of the samples)" for share, each in shares)
    return f"`{name}`: {counts} to train on; describe it here.\n"


def _recipe(config: Config) -> dict[str, Any]:
    projection, train, optimizer, schedule = config.projection, config.train, config.optimizer, config.schedule
    rows: dict[str, Any] = {"projections": projection.kind}
    if projection.kind != "dense":
        rows["rank"] = projection.rank
    if projection.kind == "lost":
        rows |= {
            "kept share of channels": projection.density,
            "gamma": "learned" if projection.learn_gamma else projection.gamma,
        }
    if projection.kind in ("lost", "cola"):
        rows["activation"] = projection.activation
    if projection.overrides:
        rows["exceptions"] = f"`{json.dumps(projection.overrides)}`"
    return rows | {
        "sequence length": config.data.seq_len,
        "sequences a step": train.batch_size,
        "precision": f"{train.dtype}, weights in {train.param_dtype}",
        "optimizer": f"{optimizer.name}, betas {optimizer.betas}, weight decay {optimizer.weight_decay}",
        "learning rate": f"{optimizer.lr:g}, {schedule.name} over {schedule.steps} steps",
        "warm-up": f"{schedule.warmup_steps} steps",
        "gradient clipping": train.grad_clip,
        "seed": train.seed,
    }


def _table(rows: dict[str, Any]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items()), ""])
