"""A model as lm-evaluation-harness asks it: how likely is this text, and how does it go on.

Tokenization of a context with its continuation is the harness' own (`lm_eval.api.model.TemplateLM`); truncation,
windows and stop strings follow its Hugging Face model, against which this one is tested.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lost.data.evaluation import evaluation_batches
from lost.engine import Engine
from lost.errors import UserError
from lost.evaluation.sampler import Sampler
from lost.evaluation.scoring import Row, score_rows
from lost.tokenizer import Tokenizer

_GENERATED = 256  # tokens at most where a task doesn't say, as in the harness' Hugging Face model
_UNDERSTOOD = {"do_sample", "temperature", "top_k", "top_p", "until", "max_gen_toks"}


class HarnessModel:
    """Answers the three kinds of question that tasks ask.

    Args:
        engine: holds the model.
        tokenizer: the model's.
        context: tokens that the model reads at once at most; what is longer loses its beginning.
        tokens_at_once: what a batch may hold, padding included.
        progress: told what is being answered, how many are done, of how many.

    Attributes:
        cut: questions that lost their beginning so far.
        longest: tokens that the model had to read for the longest question so far.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        context: int,
        tokens_at_once: int,
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        self._engine, self.tokenizer, self.context = engine, tokenizer, context
        self._tokens_at_once, self._progress = tokens_at_once, progress
        self._samplers: dict[tuple[float, int, float], Sampler] = {}
        self.cut = self.longest = 0

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, nothing added."""
        return self.tokenizer.encode(text).tolist()

    def continuations(self, asked: Sequence[tuple[tuple[str, str], list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Return (log-likelihood, whether greedy decoding gives it) of each continuation.

        Args:
            asked: ((context, continuation), ids of the context, ids of the continuation).

        Raises:
            UserError: a continuation that comes to no token, or to more than the model reads.
        """
        rows = []
        for (_, text), context, continuation in asked:
            if not 0 < len(continuation) <= self.context:
                raise UserError(
                    f"the task asks how likely {_short(text)} is, which comes to {len(continuation)} tokens after its "
                    f"context; expected between 1 and {self.context}, what the model reads at once; change the task"
                )
            tokens = (context or [self.tokenizer.end_of_text]) + continuation
            rows.append(Row(np.array(self._last(tokens, self.context + 1)), len(continuation)))
        return [(score.log_likelihood, score.greedy) for score in self._scores("continuations", rows)]

    def texts(self, texts: Sequence[str]) -> list[float]:
        """Return the log-likelihood of each whole text, the first token after end-of-text.

        Texts longer than the context are cut into windows, as `lost.evaluation.perplexity` cuts them.
        """
        rows: list[Row] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            ids = [self.tokenizer.end_of_text, *self.encode(text)]
            for window in evaluation_batches(np.array(ids), self.context, 1) if len(ids) > 1 else ():
                rows.append(Row(window.tokens[0], window.predictions))
                owners.append(number)
        totals = [0.0] * len(texts)
        for owner, score in zip(owners, self._scores("windows of text", rows), strict=True):
            totals[owner] += score.log_likelihood
        return totals

    def _scores(self, what: str, rows: list[Row]) -> list[Any]:
        self.longest = max(self.longest, *(len(row.tokens) - 1 for row in rows)) if rows else self.longest
        return score_rows(self._engine, rows, self._tokens_at_once, lambda done: self._progress(what, done, len(rows)))

    def generations(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Return how each context goes on, up to a stop string, end-of-text or the task's limit.

        Args:
            asked: (context, the task's `generation_kwargs`).

        Raises:
            UserError: settings that aren't understood here, or no room for the context.
        """
        answers = []
        for context, settings in asked:
            answers.append(self._generate(context, settings))
            self._progress("generations", len(answers), len(asked))
        return answers

    def _generate(self, context: str, settings: Mapping[str, Any]) -> str:
        from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

        wanted = normalize_gen_kwargs(dict(settings), _GENERATED)
        sampler, limit, stops = self._sampler(wanted), wanted["max_gen_toks"], wanted["until"]
        room = self.context - limit
        if limit < 1 or room < 1:
            raise UserError(
                f"the task has up to {limit} tokens generated (max_gen_toks); expected from 1 to {self.context - 1}: "
                f"the model reads {self.context} at once, its context among them; lower the task's max_gen_toks"
            )
        prompt = self._last(self.encode(context) or [self.tokenizer.end_of_text], room)
        self.longest = max(self.longest, len(prompt) + limit - 1)
        vocabulary, found, text = self.tokenizer.vocab_size, [], ""
        for token in self._engine.generate(prompt, lambda logits: sampler(logits[:vocabulary]), limit):
            if token == self.tokenizer.end_of_text:
                break
            found.append(token)
            text = self.tokenizer.decode(found)
            if any(stop in text for stop in stops if stop):
                break
        return postprocess_generated_text(text, stops, None)

    def _sampler(self, wanted: Mapping[str, Any]) -> Sampler:
        """Return what draws: one for all questions with the same settings, so that repeats differ."""
        strange = [
            f"{key} = {value}"
            for key, value in wanted.items()
            if key not in _UNDERSTOOD and (key, value) != ("num_beams", 1)
        ]
        if strange:
            raise UserError(
                f"the task generates with {', '.join(strange)}; expected only {', '.join(sorted(_UNDERSTOOD))}; change "
                "its generation_kwargs"
            )
        temperature = float(wanted.get("temperature", 1.0)) if wanted["do_sample"] else 0.0
        key = (temperature, int(wanted.get("top_k", 0)), float(wanted.get("top_p", 1.0)))
        if key not in self._samplers:
            self._samplers[key] = Sampler(*key, seed=0)
        return self._samplers[key]

    def _last(self, tokens: list[int], room: int) -> list[int]:
        self.cut += len(tokens) > room
        return tokens[-room:]


def as_harness_class(model: HarnessModel) -> Any:
    """Return the model as the harness' own kind of object."""
    from lm_eval.api.model import TemplateLM

    class EngineLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
        @property
        def eot_token_id(self) -> int:
            return model.tokenizer.end_of_text

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            return model.encode(string)

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            return super().loglikelihood(requests, disable_tqdm)

        def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
            return model.continuations(requests)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
            return model.texts([request.args[0] for request in requests])

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            return model.generations([request.args for request in requests])

    return EngineLM()


def _short(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:40]!r}..."
