"""Verification of an export: other programs open it, and must agree with our engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from lost.config import Config
from lost.engine import create_engine, inference_config
from lost.errors import ExportError
from lost.storage.arrays import NamedArrays
from lost.tokenizer import Tokenizer
from lost.tokenizer.huggingface import JsonTokenizer
from lost.utils.extras import need

READERS = {"transformers": "lost.backends.torch.reader", "mlx-lm": "lost.backends.mlx.reader"}
QUANTIZED_READERS = {"mlx-lm": READERS["mlx-lm"]}  # who opens what mlx-lm has quantized
_POSITIONS = 64
_TOLERANCE = 1e-4  # of the largest score: float32 rounding in a deep model, a tenth of bfloat16's


@dataclass(frozen=True)
class Reading:
    """The results of another program for an export.

    Attributes:
        scores: logits, (n, vocab) float32.
        ids: of each text, without any special token.
    """

    scores: np.ndarray
    ids: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Agreement:
    """A reader that agreed.

    Attributes:
        reader: its name and version.
        difference: the largest between its log-probabilities and ours.
        texts: how many gave the same token ids.
    """

    reader: str
    difference: float
    texts: int


def installed_readers(readers: Mapping[str, str]) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """Return the readers, given as names of modules, that can be used here, and why the others can't."""
    usable, missing = {}, {}
    for name, module in readers.items():
        try:
            usable[name] = import_module(module)
            _ = usable[name].VERSION
        except (ImportError, OSError, AttributeError) as error:  # as for backends: missing, or partly installed
            missing[name] = " ".join(str(error).split())
    return usable, missing


def check_with(
    reader: str,
    module: ModuleType,
    path: Path,
    tokens: Sequence[int],
    ours: np.ndarray,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    tolerance: float = _TOLERANCE,
) -> Agreement:
    """Open an export with a reader, and compare its results with ours.

    Args:
        reader: its name.
        module: which has its VERSION, and `read` that returns a `Reading`.
        path: the export.
        tokens: to run the model on.
        ours: log-probabilities (n, vocab) after each of them.
        tokenizer: the run's.
        texts: to be tokenized.
        tolerance: as in `compare`.

    Raises:
        ExportError: it can't open it, or doesn't agree.
    """
    try:
        reading: Reading = module.read(path, tokens, texts)
    except ExportError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ExportError(
            f"{reader} {module.VERSION} can't open what was exported: {type(error).__name__}: {reason}; nothing was "
            "kept; try another version of it, or report this"
        ) from error
    name = f"{reader} {module.VERSION}"
    for text, ids in zip(texts, reading.ids, strict=True):
        if (expected := tokenizer.encode(text).tolist()) != list(ids):
            raise ExportError(
                f"{name} gives {text[:60]!r} the token ids {_around(ids, expected)}, and the run's tokenizer "
                f"{_around(expected, ids)}; expected the same; nothing was kept"
            )
    difference = compare(ours, log_probabilities(reading.scores), f"{name}'s", tolerance)
    return Agreement(name, difference, len(texts))


def check_adds_nothing(path: Path) -> None:
    """Check that an export's tokenizer.json puts no token around a text, as nothing stood there in training.

    Raises:
        ExportError: it does.
    """
    theirs = need("tokenizers", "hf", "reading tokenizer.json").Tokenizer.from_file(str(path / JsonTokenizer.FILE))
    bare, usual = (theirs.encode("a", add_special_tokens=added).ids for added in (False, True))
    if usual != bare:
        raise ExportError(
            f"the exported tokenizer gives the text 'a' the token ids {usual}; expected {bare}, without tokens around "
            "it that the run never learned; nothing was kept; report this"
        )


def compare(ours: np.ndarray, theirs: np.ndarray, whose: str, tolerance: float = _TOLERANCE) -> float:
    """Return the largest difference between two models' log-probabilities.

    Args:
        ours: (n, vocab).
        theirs: likewise.
        whose: the other model's, in messages.
        tolerance: the most that it may be, as a share of the largest of ours: rounding errors.

    Raises:
        ExportError: it is more.
    """
    difference, largest = float(np.abs(ours - theirs).max()), float(np.abs(ours).max())
    if not difference <= tolerance * largest:
        raise ExportError(
            f"{whose} log-probabilities differ from ours by {difference:.3g}; expected at most {tolerance:g} of the "
            f"largest, {largest:.3g}; nothing was kept"
        )
    return difference


def own_scores(config: Config, arrays: NamedArrays, tokens: Sequence[int], backend: str = "auto") -> np.ndarray:
    """Return our log-probabilities (n, vocab) after each token, computed in float32 with the cache on a CPU."""
    exact = inference_config(config).replace("train", dtype="float32", param_dtype="float32", frozen_dtype=None)
    engine = create_engine(exact, backend, "cpu")
    engine.load(arrays)
    scores: list[np.ndarray] = []
    list(engine.generate(tokens[:1], _recite(tokens[1:], scores), len(tokens)))
    return log_probabilities(np.stack(scores[: len(tokens)]))  # an engine may have looked one token ahead


def _recite(tokens: Sequence[int], scores: list[np.ndarray]) -> Callable[[np.ndarray], int]:
    """Return a function that always chooses the next given token, and records the logits."""

    def choose(logits: np.ndarray) -> int:
        scores.append(logits.copy())
        return tokens[len(scores) - 1] if len(scores) <= len(tokens) else 0

    return choose


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities of logits (n, vocab), float64: engines may leave out a constant common to all logits."""
    from scipy.special import log_softmax  # slow to import

    found: np.ndarray = log_softmax(logits.astype(np.float64), axis=-1)
    return found


def probe(tokenizer: Tokenizer, texts: Sequence[str], positions: int) -> list[int]:
    """Return tokens to compare models on: end-of-text, and the beginnings of some texts."""
    tokens = [tokenizer.end_of_text]
    for text in reversed(texts):
        tokens += tokenizer.encode(text).tolist()[:16]
    return tokens[: min(positions, _POSITIONS)]


def _around(ids: Sequence[int], others: Sequence[int]) -> str:
    same = next((n for n, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), min(len(ids), len(others)))
    return f"{'...' if same > 2 else ''}{list(ids[max(same - 2, 0) : same + 4])}"
