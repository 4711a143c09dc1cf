"""The model card of an export: the model, its training data and recipe, measurements, how to open it."""

import json
from pathlib import Path
from typing import Any

import lost
from lost.checkpoint import CHECKPOINTS, Checkpoint
from lost.config import Config
from lost.data.dataset import TRAIN
from lost.data.mixture import Mixture, open_dataset
from lost.errors import DataError
from lost.evaluation.perplexity import perplexity
from lost.interop.layout import architecture
from lost.interop.to_hf.quantized import Quantized
from lost.model.adapted import dense_twin
from lost.planning.budget import budget
from lost.projections import KINDS
from lost.storage.nofollow import resolved
from lost.tokenizer.chat_template import PLAIN
from lost.tracking.metrics import FILE as METRICS
from lost.tracking.metrics import last_of, read_rows
from lost.utils.wording import counted

_FRONT = """\
---
library_name: {library}
pipeline_tag: text-generation
{license}
tags:
- {tag}
- lost-pretrain
- mlx
---
"""

_NO_LICENSE = "license: other\nlicense_name: not-chosen-yet"
_NONE_CHOSEN = "none was chosen yet. Whoever publishes this model puts it here and into the first lines"
_OPEN = """\
## Open it

{transformers}With mlx-lm:

```
mlx_lm.generate --model PATH --prompt "Once"{plain}{flag}
mlx_lm.server --model PATH{flag}
```
{why}
{nature}{before}
"""
_BEFORE = "In training every text stood behind the end-of-text token, which no tokenizer adds by itself."
_TRANSFORMERS = """\
With transformers 4.57 or newer:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH"{code})
model = AutoModelForCausalLM.from_pretrained("PATH"{code})
inputs = {inputs}
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0]))
```

"""
_TEXT = 'tokenizer("Once", return_tensors="pt")'
_CONVERSATION = """\
tokenizer.apply_chat_template(
    [{"role": "user", "content": "Once"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)"""
_BASE = "It is a base model: it continues text and follows no instructions. "
_TUNED = "It was tuned on prompts and their completions: it continues such prompts. "
_CHAT = "It was tuned on conversations: ask it by its chat template, which stands in `tokenizer_config.json`. "

_CODE = """
The flag lets them run the model's own layers, which stand in `modeling_lost.py` and `mlx_lost.py` beside the weights.
"""


_ADAPTERS = """\
---
library_name: peft
{base}
{license}
tags:
- lora
- lost-pretrain
---
"""
_OPEN_ADAPTERS = """\
## Open them

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}"{revision})
model = PeftModel.from_pretrained(base, "PATH")
```
"""


def adapter_card(
    source: Checkpoint, base: tuple[str, str] | None, entries: int, dtype: str, license: str | None
) -> str:
    """Return README.md of adapters alone.

    Args:
        source: the run's checkpoint.
        base: the model of the hub that they are for, and its commit; None: it isn't one.
        entries: of their factors.
        dtype: of them.
        license: the hub's name of their licence; None: none was chosen.
    """
    run = _run_of(source)
    name, revision = base or ("BASE", None)
    return "\n".join(
        [
            _ADAPTERS.format(
                base=f"base_model: {name}" if base else "# base_model: the hub's name of the model that they are for",
                license=f"license: {license}" if license else _NO_LICENSE,
            ),
            f"# {resolved(run).name}\n",
            f"Low-rank adapters of {entries:,} parameters in {dtype} for "
            f"{f'[{name}](https://huggingface.co/{name})' if base else 'the model that the run began with'}, made with "
            f"[lost-pretrain](https://arxiv.org/abs/2508.02668) {lost.__version__}.\n",
            f"Licence: {license or _NONE_CHOSEN}.\n",
            *_training(run, source),
            _OPEN_ADAPTERS.format(base=name, revision=f', revision="{revision}"' if revision else ""),
        ]
    )


def card(
    source: Checkpoint, target: Config, dtype: str, license: str | None = None, quantized: Quantized | None = None
) -> str:
    """Return README.md.

    Args:
        source: what is exported.
        target: the configuration of the exported model.
        dtype: of its weights.
        license: the hub's name of the model's licence; None: none was chosen.
        quantized: what of it is in few bits; None: nothing.
    """
    run = _run_of(source)
    known = architecture(target)
    exceptions = (each["kind"] for each in target.projection.overrides.values() if "kind" in each)
    kinds = sorted({target.projection.kind, *exceptions})
    what = (known or f"Llama with {' and '.join(kinds)} layers").removesuffix("ForCausalLM")
    merged = " Its layers are merged from factors." if target.projection != source.config.projection else ""
    parts = source.progress.origin.parts if source.progress.origin else ()
    if parts:
        merged += f" Its weights are the average of {counted(len(parts), 'checkpoint')}."
    count, twin = (budget(each).parameters for each in (target, dense_twin(target)))
    dense = "" if known else f" (a dense one of its shape: {twin:,})"
    nature = _nature(source)
    code = "" if known else ", trust_remote_code=True"
    transformers = _TRANSFORMERS.format(code=code, inputs=_CONVERSATION if nature == _CHAT else _TEXT)
    sections = [
        _FRONT.format(
            library="mlx" if quantized else "transformers",
            tag="llama" if known else "lost",
            license=f"license: {license}" if license else _NO_LICENSE,
        ),
        f"# {resolved(run).name}\n",
        f"A {what} of {count:,} parameters{dense} in {_few_bits(quantized)}{dtype}, made with "
        f"[lost-pretrain](https://arxiv.org/abs/2508.02668) {lost.__version__}.{merged}\n",
        f"Licence: {license or _NONE_CHOSEN}.\n",
        *(_training(run, source) if source.progress.step else ["It was imported, and not trained further.\n"]),
        *(_quantization(quantized) if quantized else []),
        _OPEN.format(
            transformers="" if quantized else transformers,
            flag="" if known else " --trust-remote-code",
            why="" if known else _CODE,
            plain="" if nature == _CHAT else " --ignore-chat-template",
            nature=nature,
            before=_BEFORE if source.progress.step else "",
        ),
    ]
    return "\n".join(sections)


def _run_of(source: Checkpoint) -> Path:
    return source.path.parent.parent if source.path.parent.name == CHECKPOINTS else source.path


def _training(run: Path, source: Checkpoint) -> list[str]:
    numbers = {"step": source.progress.step, "tokens seen": f"{source.progress.tokens:,}", **_measured(run, source)}
    recipe = _table(_recipe(source.config))
    return ["## Numbers\n", _table(numbers), "## Data\n", _data(source.config), "## Recipe\n", recipe]


def _few_bits(quantized: Quantized | None) -> str:
    return f"{quantized.how.bits} bits and " if quantized else ""


def _quantization(quantized: Quantized) -> list[str]:
    how = quantized.how
    rows: dict[str, Any] = {
        "matrices quantized": f"{quantized.matrices}, to {how.bits} bits in groups of {how.group_size}",
        "matrices kept as they were": len(quantized.kept),
        "bits a weight, of all": f"{quantized.bits_per_weight:.2f}",
    }
    if quantized.before and quantized.after:
        rows[f"perplexity before, over {quantized.before.tokens:,} tokens"] = f"{quantized.before.perplexity:.3f}"
        rows["perplexity after"] = f"{quantized.after.perplexity:.3f}"
    return ["## Quantization\n", _table(rows)]


def _nature(source: Checkpoint) -> str:
    """Return what kind of training it had; "" where that isn't known here."""
    template, trained = source.tokenizer().chat_template, source.progress.step > 0
    try:
        examples = open_dataset(source.config.data).split(TRAIN).loss_mask is not None
    except DataError:
        examples = None  # the data isn't here
    if template == PLAIN or (template and examples):  # the plain one is only where conversations were learned
        return _CHAT
    if examples:
        return _TUNED
    unknown = examples is None and (template or source.progress.origin)
    return "" if unknown or not trained else _BASE


def _measured(run: Path, source: Checkpoint) -> dict[str, str]:
    """Return the last figures that the run reported up to the exported step.

    Those of validation say of which step they are, if of another, and whether of a part of the text.
    """
    rows = [row for row in _rows(run / METRICS) if row["step"] <= source.progress.step]
    trained, validated = last_of(rows, "train"), last_of(rows, "validation")
    if not rows and (loss := source.progress.validation_loss) is not None:
        validated = {"validation_loss": loss, "perplexity": perplexity(loss), "step": source.progress.step}
    limit, when = source.config.train.eval_tokens, ""
    if validated and validated["step"] != source.progress.step:
        when = f" at step {validated['step']}"
    if limit and validated.get("bits_per_byte") is None:  # which only the whole text has
        when += f", of no more than its first {limit:,} tokens"
    names = {"validation_loss": "validation loss", "perplexity": "validation perplexity"}
    names["bits_per_byte"] = "bits per byte of the validation text"
    shown = {"training loss": trained.get("loss")}
    shown |= {f"{name}{when}": validated.get(key) for key, name in names.items()}
    return {name: f"{value:.4f}" for name, value in shown.items() if isinstance(value, int | float)}


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return read_rows(path)
    except OSError:
        return []  # no file of ours


def _data(config: Config) -> str:
    try:
        dataset = open_dataset(config.data)
        split, name = dataset.split(TRAIN), dataset.path.name
    except DataError:
        return f"`{Path(config.data.path or 'unknown').name}`; describe it here.\n"
    counts = f"{counted(split.documents, 'document')}, {split.bytes:,} bytes, {split.tokens:,} tokens"
    if isinstance(dataset, Mixture):
        shares = zip(dataset.shares(), dataset.sets, strict=True)
        name = ", ".join(f"{each.path.name} ({share:.0%} of the samples)" for share, each in shares)
    return f"`{name}`: {counts} to train on; describe it here.\n"


def _recipe(config: Config) -> dict[str, Any]:
    projection, train, optimizer, schedule = config.projection, config.train, config.optimizer, config.schedule
    rows = {"projections": projection.kind, **KINDS[projection.kind].card_rows(projection)}
    if projection.overrides:
        rows["exceptions"] = f"`{json.dumps(projection.overrides)}`"
    return rows | {
        "sequence length": config.data.seq_len,
        "sequences a step": train.batch_size,
        "precision": f"{train.compute_dtype}, weights in {train.param_dtype}",
        "optimizer": f"{optimizer.name}, betas {optimizer.betas}, weight decay {optimizer.weight_decay}",
        "learning rate": f"{optimizer.lr:g}, {schedule.name} over {counted(schedule.total_steps, 'step')}",
        "warm-up": counted(schedule.warmup_steps, "step"),
        "gradient clipping": train.grad_clip,
        "seed": train.seed,
    }


def _table(rows: dict[str, Any]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items()), ""])
