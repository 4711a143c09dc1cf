"""What a user asks `lost bench` to measure, and whether it can be."""

from collections.abc import Sequence
from dataclasses import dataclass

from lost.config import Config
from lost.errors import UserError
from lost.model.load import load_config
from lost.projections import KINDS

_VOCABULARY = 32000  # the field's, where a configuration leaves it to the data
_SUITS_A_CPU = (
    *("train.batch_size=4", "train.micro_batch_size=null"),
    *("train.dtype=float32", "train.param_dtype=float32"),
)


@dataclass(frozen=True)
class LayerShape:
    """A layer to measure, and how many tokens go through it at once.

    Raises:
        UserError: a value that no layer can have.
    """

    in_features: int = 768
    out_features: int = 2048
    rank: int = 256
    density: float = 0.03
    tokens: int = 1024

    def __post_init__(self) -> None:
        shape, largest = f"{self.in_features}x{self.out_features}", min(self.in_features, self.out_features)
        if largest < 1:
            raise UserError(f"--layer-shape {shape}: expected two numbers of 1 or more; such as 768x2048")
        if not 1 <= self.rank <= largest:
            raise UserError(
                f"--layer-rank {self.rank}: a layer of {shape} has a rank of at least 1 and at most {largest}; "
                "change --layer-rank or --layer-shape"
            )
        if not 0 < self.density <= 1:
            raise UserError(f"--layer-density {self.density}: expected a share, above 0 and at most 1; such as 0.03")
        at_least("--layer-tokens", self.tokens)


def at_least(option: str, value: int | None) -> None:
    """Refuse a count below 1; None is no count.

    Raises:
        UserError: naming the option.
    """
    if value is not None and value < 1:
        raise UserError(f"{option} {value}: expected 1 or more; raise it, or leave it out")


def kinds_of(text: str) -> list[str]:
    """Read kinds of projection with commas between.

    Raises:
        UserError: one is unknown or there twice.
    """
    found = [part.strip() for part in text.split(",")]
    unknown = [kind for kind in found if kind not in KINDS]
    if unknown:
        raise UserError(
            f"--kinds {text}: no such kind as {unknown[0]!r}; expected some of {','.join(KINDS)}, with commas between; "
            "change it"
        )
    twice = [kind for kind in KINDS if found.count(kind) > 1]
    if twice:
        raise UserError(f"--kinds {text}: {twice[0]} is there twice; expected each kind once; remove one")
    return found


def settings(
    config: str,
    overrides: Sequence[str],
    device: str,
    dtype: str | None = None,
    batch: int | None = None,
    seq_len: int | None = None,
    checkpoint_activations: str | None = None,
) -> Config:
    """Return the configuration to measure: what is named, over `--set`, over what suits the device, over the file.

    A CPU gets 4 sequences in float32, any other device one micro-batch as it stands in the file.

    Raises:
        UserError: a value that can't be.
    """
    at_least("--batch", batch)
    at_least("--seq-len", seq_len)
    suits = list(_SUITS_A_CPU) if device == "cpu" else []
    options = {
        "train.dtype": dtype,
        "data.seq_len": seq_len,
        "train.checkpoint_activations": checkpoint_activations,
    }
    named = [f"{key}={value}" for key, value in options.items() if value is not None]
    base = load_config(config, [*suits, *overrides, *named])
    if base.model.vocab_size is None:
        named.append(f"model.vocab_size={_VOCABULARY}")
    if batch:
        named.append(f"train.batch_size={batch}")
        if batch <= base.train.micro_batch:
            named.append("train.micro_batch_size=null")
    elif device != "cpu":
        suits = [f"train.batch_size={base.train.micro_batch}"]
    return load_config(config, [*suits, *overrides, *named])
