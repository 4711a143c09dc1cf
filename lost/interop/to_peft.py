"""Export of adapters alone: a folder that PEFT opens on the base model, compared with our engine before it is kept."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lost.checkpoint import Checkpoint, Origin
from lost.config import Config, DType
from lost.errors import CheckpointError, ConfigError, UserError
from lost.interop.destination import check_free
from lost.interop.hub.download import as_typed, published
from lost.interop.layout import is_plain
from lost.interop.rewrite import NUMPY, cast
from lost.interop.rewrite import compare as check_written
from lost.interop.source import Source, is_folder_of_another, open_source
from lost.interop.to_hf.card import adapter_card
from lost.interop.to_hf.check import compare, own_scores, probe
from lost.interop.to_hf.samples import validation_texts
from lost.method.decompose import leading_pair
from lost.model.adapted import adapters, base_config
from lost.model.parameters import parameter_table
from lost.projections.adapters import Adapter
from lost.storage.arrays import digest_of
from lost.storage.files import atomic_dir
from lost.storage.nofollow import DOCUMENT_BYTES, read_bytes, write_new
from lost.storage.tensors import read_tensors, write_tensors
from lost.tokenizer.comparison import AWKWARD
from lost.utils.parsing import parse_object

DESCRIPTION, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
_ONE_FILE = 1 << 62  # bytes
# What a run may change of its base model, and outputs depend on; PEFT takes it from the base. (Of the rest that is free
# initial weights depend on one, and nothing that is computed on the number of positions.)
_COMPUTED_WITH = ("rope_theta",)
Pair = tuple[np.ndarray, np.ndarray, float]
"""down (r x in), up (out x r), and alpha, of which up down is multiplied by alpha / r."""


@dataclass(frozen=True)
class AdapterExport:
    """What was exported.

    Attributes:
        path: the folder.
        dtype: of the factors.
        bytes: of all files.
        difference: the largest between log-probabilities of the base with the adapter as it was written, and ours.
        base: the folder of the base model that PEFT is to open, by its name if it is the hub's; None: it isn't one
            that transformers opens.
        origin: the base model as the run began with it; None: it isn't known any more.
        remarks: on what could not be compared, for the user.
    """

    path: Path
    dtype: str
    bytes: int
    difference: float
    base: Path | None
    origin: Path | None
    remarks: Sequence[str] = ()


def export(
    source: Checkpoint,
    path: Path,
    dtype: DType | None = None,
    overwrite: bool = False,
    backend: str = "auto",
    license: str | None = None,
    to_publish: bool = False,
) -> AdapterExport:
    """Write the adapters of a checkpoint.

    Args:
        source: a verified checkpoint.
        path: a folder that doesn't exist yet.
        dtype: of the factors; None: unchanged, or float32 for products, which the run's own type would round.
        overwrite: replace an earlier export of this kind.
        backend: computes the log-probabilities to compare with.
        license: as in `adapter_card`.
        to_publish: whether others are to open it, whose base model is then the hub's.

    Raises:
        UserError: others are to open it, and the base model is on this machine alone.
        CheckpointError: something is at `path`, or the base model isn't where it was, and is needed.
        ConfigError: the run has no adapters, or trained more than them, or computes otherwise than its base; or PEFT
            has no such model.
        ExportError: the base model with the adapters isn't the run's.
        StorageError: the disk refused.
    """
    check_free(path, overwrite, _is_ours, (DESCRIPTION, WEIGHTS, CARD))
    config = source.config
    _check(config)
    base = _base(source.progress.origin)
    known = published(base.path) if base else None
    if to_publish and not known:
        found = f", but {base.path}" if base else ", or isn't in its cache any more"
        raise UserError(
            f"--push: the base model of {source.path} is none of the hub{found}; expected one that others can fetch, "
            "with which training began (--init-from hf://OWNER/NAME); leave --push out"
        )
    remarks = _compared(config, base)
    weights, pairs = _layers(source, base)
    kept = dtype or _exact(pairs, config.train.param_dtype)
    tokenizer = source.tokenizer()
    texts = [*AWKWARD, *validation_texts(config, tokenizer)]
    tokens = probe(tokenizer, texts, config.model.max_position_embeddings)
    folder = base.path if base and is_folder_of_another(base.path) else None
    with atomic_dir(path, replace=overwrite) as partial:
        write_new(partial / DESCRIPTION, (json.dumps(_description(pairs, folder), indent=2) + "\n").encode())
        (written,) = write_tensors(partial, "adapter_model", cast(_renamed(pairs), kept), _ONE_FILE)
        (partial / written).rename(partial / WEIGHTS)
        factors = dict(read_tensors([partial / WEIGHTS]))
        check_written(cast(_renamed(pairs), kept), factors.items())
        entries = sum(each.size for each in factors.values())
        write_new(partial / CARD, adapter_card(source, known, entries, kept, license).encode())
        difference = _difference(source, weights, pairs, factors, kept != "float32", tokens, backend)
        size = sum(each.stat().st_size for each in partial.iterdir())
    return AdapterExport(path, kept, size, difference, folder, base.path if base else None, remarks)


def _check(config: Config) -> None:
    """Refuse what isn't an adapter of a model that PEFT opens."""
    if not adapters(config):
        raise ConfigError(
            f"--to peft: the run has no adapters (projection.kind = {config.projection.kind}); expected lora or "
            "another one of docs/adapters.md; use --to hf or dense, which export the whole model"
        )
    if config.projection.train_rest:
        raise ConfigError(
            "--to peft: more than the adapters was trained (projection.train_rest = true); expected false; use --to hf "
            "or dense, which export the whole model"
        )
    table = parameter_table(config)
    for each in adapters(config):
        halved = table[f"{each.name}.weight"].dtype == "bfloat16"
        rounded = "few bits" if each.settings.bits else "bfloat16" if halved else None
        if rounded and not each.keeps_base:
            raise ConfigError(
                f"--to peft: the base weight of {each.name} has moved ({each.settings.kind}), and is rounded to "
                f"{rounded}, so no pair is the difference from the base model; expected another kind, or weights in "
                "float32 (train.frozen_dtype, projection.bits); use --to dense or hf, which export the whole model"
            )
    if not is_plain(base_config(config)):
        raise ConfigError(
            "--to peft: PEFT names the layers of a plain Llama or Qwen3, and the base model has others; expected "
            "adapters of such a one; use --to hf, which merges them"
        )


def _base(origin: Origin | None) -> Source | None:
    """Return the model that a run adapts, past runs that trained the same adapters; None: it isn't there any more.

    What is there now, with other weights than the run began with, is another model.
    """
    while origin:
        try:
            found = open_source(Path(origin.path))
        except CheckpointError:
            return None
        if not adapters(found.config):
            return found if digest_of(found.parameters()) == origin.fingerprint else None
        origin = found.progress.origin if found.progress else None
    return None


def _compared(config: Config, base: Source | None) -> list[str]:
    """Refuse a base model that computes otherwise than the run; return what is to be said where none is known."""
    own = {key: getattr(config.model, key) for key in _COMPUTED_WITH}
    if base is None:
        wanted = " and ".join(f"{key} = {value}" for key, value in own.items())
        return [
            "the base model isn't where the run began with it, or has other weights now, so it wasn't compared with "
            f"the run's: name the one to PEFT that the run began with; it has {wanted} in its config.json"
        ]
    for key, value in own.items():
        if (theirs := getattr(base.config.model, key)) != value:
            raise ConfigError(
                f"--to peft: the run has model.{key} = {value}, and {theirs} in the base model {as_typed(base.path)}, "
                "which PEFT opens as it is; expected the same; use --to hf or dense, which export the whole model"
            )
    return []


def _exact(pairs: Mapping[str, Pair], own: DType) -> DType:
    """Return the run's type of weights if all factors have it, else float32: products have more digits."""
    held = (each for down, up, _ in pairs.values() for each in (down, up))
    return own if all(np.array_equal(each.astype(NUMPY[own]).astype(np.float64), each) for each in held) else "float32"


def _layers(source: Checkpoint, base: Source | None) -> tuple[dict[str, np.ndarray], dict[str, Pair]]:
    """Return the base model's weights of layers that have left them, as they are stored, and the pair of each layer."""
    layers = {each.name: each for each in adapters(source.config)}
    moved = {name for name, each in layers.items() if not each.keeps_base}
    if moved and base is None:
        first = layers[min(moved)]
        raise CheckpointError(
            f"--to peft: {first.name} has left its base weight ({first.settings.kind}), and the base model isn't where "
            "the run began with it, or has other weights now; expected it there; put it back, or use --to dense, which "
            "needs no base"
        )
    weights = {
        owner: array
        for name, array in (base.parameters() if base and moved else ())
        if name.endswith(".weight") and (owner := name.removesuffix(".weight")) in moved
    }
    found = (each for each in _complete(source) if each[0] in layers)
    return weights, {name: _pair(layers[name], values, weights.get(name)) for name, values in found}


def _complete(source: Checkpoint) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield the arrays of each adapter once they are complete, float64 but for integers; each other array alone.

    So one layer is held at a time: all of a large model's, so wide, are several times what it was trained in.
    """
    layers = {each.name: each for each in adapters(source.config)}
    held: dict[str, dict[str, np.ndarray]] = {}
    for name, array in source.parameters():
        owner, _, suffix = name.rpartition(".")
        if owner not in layers:
            yield name, {"": array}
            continue
        values = held.setdefault(owner, {})
        values[suffix] = array if array.dtype == np.int32 else array.astype(np.float64)
        if values.keys() == layers[owner].tensors().keys():
            yield owner, held.pop(owner)


def _pair(layer: Adapter, values: Mapping[str, np.ndarray], base: np.ndarray | None) -> Pair:
    """Return the pair itself; or where the weight was moved, that of the change: a pair was taken away, one added."""
    if layer.keeps_base:
        down, up = layer.pair(values)
        return down, up, layer.scale * len(down)
    assert base is not None
    rank = min(2 * layer.settings.rank, layer.in_features, layer.out_features)
    return *leading_pair(layer.merged(values) - base, rank), float(rank)


def _description(pairs: Mapping[str, Pair], base: Path | None) -> dict[str, Any]:
    """Return the content of adapter_config.json."""
    ranks = {name: len(down) for name, (down, _, _) in pairs.items()}
    alphas = {name: alpha for name, (_, _, alpha) in pairs.items()}
    rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
    name, revision = published(base) or (str(base), None) if base else (None, None)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "target_modules": list(pairs),
        "rank_pattern": {name: each for name, each in ranks.items() if each != rank},
        "alpha_pattern": {name: each for name, each in alphas.items() if each != alpha},
    }


def _renamed(pairs: Mapping[str, Pair]) -> Iterator[tuple[str, np.ndarray]]:
    for name, (down, up, _) in pairs.items():
        yield _name(name, "A"), np.ascontiguousarray(down)
        yield _name(name, "B"), np.ascontiguousarray(up)


def _name(layer: str, factor: str) -> str:
    return f"base_model.model.{layer}.lora_{factor}.weight"


def _applied(
    source: Checkpoint,
    weights: Mapping[str, np.ndarray],
    pairs: Mapping[str, Pair],
    factors: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the base model's parameters, to which is added what was written."""
    layers = {each.name: each for each in adapters(source.config)}
    for name, values in _complete(source):
        if name not in layers:
            yield name, values[""]
            continue
        weight = weights[name] if name in weights else layers[name].frozen_weight(values)
        down, up = (factors[_name(name, factor)].astype(np.float64) for factor in "AB")
        yield f"{name}.weight", (weight + pairs[name][2] / len(down) * (up @ down)).astype(np.float32)
        if "bias" in values:
            yield f"{name}.bias", values["bias"].astype(np.float32)


def _difference(
    source: Checkpoint,
    weights: Mapping[str, np.ndarray],
    pairs: Mapping[str, Pair],
    factors: Mapping[str, np.ndarray],
    rounded: bool,
    tokens: Sequence[int],
    backend: str,
) -> float:
    """Return the largest difference between log-probabilities of the base model with what was written, and ours.

    Raises:
        ExportError: it is more than rounding errors; of factors that were rounded, that of the ones before.
    """
    ours = own_scores(source.config, source.parameters(), tokens, backend)

    def found(held: Mapping[str, np.ndarray], *tolerance: float) -> float:
        applied = _applied(source, weights, pairs, held)
        theirs = own_scores(base_config(source.config), applied, tokens, backend)
        return compare(ours, theirs, "the base model's, with the adapter,", *tolerance)

    if not rounded:
        return found(factors)
    found(dict(_renamed(pairs)))
    return found(factors, np.inf)  # what rounding changes is asked for, and said


def _is_ours(path: Path) -> bool:
    return "peft_type" in parse_object(read_bytes(path / DESCRIPTION, DOCUMENT_BYTES))
