"""The options of `lost bench`, validated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lost.config import Config, ProjectionSettings
from lost.errors import UserError
from lost.model.load import load_config
from lost.projections import KINDS

_CPU_DEFAULTS = (
    *("train.batch_size=4", "train.micro_batch_size=null"),
    *("train.dtype=float32", "train.param_dtype=float32"),
)
_WIDEST = 1 << 20  # side of a layer
_BATCH = 64  # of an accelerator where the file leaves the micro-batch to it


@dataclass(frozen=True)
class LayerShape:
    """A layer to measure, and the number of tokens that it processes at once.

    Raises:
        UserError: a value is out of range.
    """

    in_features: int = 768
    out_features: int = 2048
    rank: int = 256
    density: float = 0.03
    tokens: int = 1024

    def __post_init__(self) -> None:
        shape, largest = f"{self.in_features}x{self.out_features}", min(self.in_features, self.out_features)
        if largest < 1 or max(self.in_features, self.out_features) > _WIDEST:
            raise UserError(f"--layer-shape {shape}: expected two numbers from 1 to {_WIDEST:,}, such as 768x2048")
        if not 1 <= self.rank <= largest:
            raise UserError(
                f"--layer-rank {self.rank}: a layer of {shape} has a rank of at least 1 and at most {largest}; "
                "change --layer-rank or --layer-shape"
            )
        if not 0 < self.density <= 1:
            raise UserError(f"--layer-density {self.density}: expected a share above 0 and at most 1, such as 0.03")
        at_least("--layer-tokens", self.tokens)


def at_least(option: str, value: int | None) -> None:
    """Refuse a count below 1; None passes.

    Raises:
        UserError: the message names the option.
    """
    if value is not None and value < 1:
        raise UserError(f"{option} {value}: expected 1 or more; raise it, or leave it out")


def as_kind(settings: ProjectionSettings, kind: str) -> dict[str, Any]:
    """Return what makes a layer of a kind of another's settings."""
    return {"kind": kind, **KINDS[kind].compared_settings(settings)}


def kinds_of(text: str) -> list[str]:
    """Parse a comma-separated list of projection kinds.

    Raises:
        UserError: a kind is unknown or listed twice.
    """
    kinds = [part.strip() for part in text.split(",")]
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UserError(
            f"--kinds {text}: there is no kind {unknown[0]!r}; expected some of {','.join(KINDS)}, separated by "
            "commas; change it"
        )
    twice = [kind for kind in KINDS if kinds.count(kind) > 1]
    if twice:
        raise UserError(f"--kinds {text}: {twice[0]} is listed twice; expected each kind once; remove one")
    return kinds


def settings(
    config: str,
    overrides: Sequence[str],
    device: str,
    dtype: str | None = None,
    batch: int | None = None,
    seq_len: int | None = None,
    checkpoint_activations: str | None = None,
) -> Config:
    """Return the configuration to measure: options, before `--set`, before the device's defaults, before the file.

    A CPU gets 4 sequences in float32, other devices one micro-batch of the file; 64 sequences if that is `auto`.

    Raises:
        UserError: a value is out of range.
    """
    at_least("--batch", batch)
    at_least("--seq-len", seq_len)
    defaults = list(_CPU_DEFAULTS) if device == "cpu" else []
    options = {
        "train.dtype": dtype,
        "data.seq_len": seq_len,
        "train.checkpoint_activations": checkpoint_activations,
    }
    named = [f"{key}={value}" for key, value in options.items() if value is not None]
    base = load_config(config, [*defaults, *overrides, *named])
    if batch:
        named.append(f"train.batch_size={batch}")
        if isinstance(base.train.micro_batch_size, int) and batch <= base.train.micro_batch_size:
            named.append("train.micro_batch_size=null")
    elif device != "cpu":
        chosen = _BATCH if base.train.micro_batch_size == "auto" else base.train.micro_batch
        defaults = [f"train.batch_size={chosen}"]
    return load_config(config, [*defaults, *overrides, *named])
