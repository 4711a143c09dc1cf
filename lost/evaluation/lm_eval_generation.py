"""How a task of lm-evaluation-harness has answers written: its `generation_kwargs`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lost.errors import UserError
from lost.generation.sampler import Sampler

_MAX_GENERATED = 256  # tokens where a task sets no limit, as in lm_eval's Hugging Face model
_TOP_K = 50  # of a task that samples and says nothing else, as in transformers
_SUPPORTED = {"do_sample", "temperature", "top_k", "top_p", "until", "max_gen_toks"}


@dataclass(frozen=True)
class Writing:
    """How an answer is written.

    Attributes:
        limit: most tokens.
        stops: strings that end it.
        sampling: temperature, top_k, top_p.
    """

    limit: int
    stops: tuple[str, ...]
    sampling: tuple[float, int, float]

    def sampler(self) -> Sampler:
        """Return what chooses its tokens."""
        return Sampler(*self.sampling, seed=0)


def written(settings: Mapping[str, Any], context: int, whose: str = "the task") -> Writing:
    """Return how answers are written by a task's settings.

    Args:
        settings: its `generation_kwargs`.
        context: tokens that the model reads at once, what it writes included.
        whose: they are; the subject of messages.

    Raises:
        UserError: they aren't supported, or leave no room for a question.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    try:
        complete = normalize_gen_kwargs(dict(settings), _MAX_GENERATED)
        temperature = float(complete.get("temperature", 1.0)) if complete["do_sample"] else 0.0
        sampling = (temperature, int(complete.get("top_k", _TOP_K)), float(complete.get("top_p", 1.0)))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{whose} generates with {dict(settings)}: {error}; expected numbers; change its generation_kwargs"
        ) from None
    unsupported = [
        f"{key} = {value}"
        for key, value in complete.items()
        if key not in _SUPPORTED and (key, value) != ("num_beams", 1)
    ]
    if unsupported:
        raise UserError(
            f"{whose} generates with {', '.join(unsupported)}; expected only {', '.join(sorted(_SUPPORTED))}; "
            "change its generation_kwargs"
        )
    found = Writing(complete["max_gen_toks"], tuple(filter(None, complete["until"])), sampling)
    try:
        found.sampler()
    except UserError as error:
        raise UserError(f"{whose} generates with {error}; change its generation_kwargs") from None
    if not 1 <= found.limit < context:
        raise UserError(
            f"{whose} generates up to {found.limit} tokens (max_gen_toks); expected 1 to {context - 1}: the model "
            f"reads {context} at once, the prompt included; lower the task's max_gen_toks"
        )
    return found
