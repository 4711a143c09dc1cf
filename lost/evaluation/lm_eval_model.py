"""A model for lm-evaluation-harness (`lm_eval`): log-likelihoods and generation.

Tokenization of a context with its continuation is lm_eval's own (`lm_eval.api.model.TemplateLM`); truncation, windows
and stop strings follow its Hugging Face model, against which this one is tested.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from lost.data.evaluation import evaluation_batches
from lost.engine import Engine
from lost.errors import UserError
from lost.evaluation.lm_eval_generation import written
from lost.evaluation.scoring import Score, ScoreRequest, score_requests
from lost.generation.sampler import Sampler
from lost.generation.stopping import until
from lost.tokenizer import Tokenizer


class LmEvalModel:
    """Answers the three kinds of request that tasks make.

    Args:
        engine: holds the model.
        tokenizer: the model's.
        context: tokens that the model reads at once; longer inputs are truncated on the left.
        tokens_at_once: tokens a batch may hold, padding included.
        progress: called with the kind of request, the number answered, and the total.
        begin: the token that a text is read after; None: end-of-text, where there is nothing else to read after.
        ends: tokens with which generation ends, beside end-of-text.

    Attributes:
        num_truncated: requests truncated so far.
        longest: tokens that the model read for the longest request so far.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        context: int,
        tokens_at_once: int,
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,
        begin: int | None = None,
        ends: Iterable[int] = (),
    ) -> None:
        self._engine, self.tokenizer, self.context = engine, tokenizer, context
        self._tokens_at_once, self._progress = tokens_at_once, progress
        self._samplers: dict[tuple[float, int, float], Sampler] = {}
        self.begin = tokenizer.end_of_text if begin is None else begin
        self._ends = {tokenizer.end_of_text, *ends}
        self.num_truncated = self.longest = 0

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; nothing is added, but for what an imported model's tokenizer puts before texts."""
        ids = self.tokenizer.encode(text).tolist()
        return ids if self.begin == self.tokenizer.end_of_text else [self.begin, *ids]

    def continuations(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]]
    ) -> list[tuple[float, bool]]:
        """Return (log-likelihood, whether greedy decoding gives it) of each continuation.

        Args:
            requests: ((context, continuation), ids of the context, ids of the continuation).

        Raises:
            UserError: a continuation has no token, or more than the model reads.
        """
        scored = []
        for (_, text), context, continuation in requests:
            if not 0 < len(continuation) <= self.context:
                raise UserError(
                    f"the task scores {_short(text)}, which has {len(continuation)} tokens after its context; expected "
                    f"between 1 and {self.context}, what the model reads at once; change the task"
                )
            tokens = (context or [self.begin]) + continuation
            scored.append(ScoreRequest(np.array(self._last(tokens, self.context + 1)), len(continuation)))
        return [(score.log_likelihood, score.greedy) for score in self._scores("continuations", scored)]

    def texts(self, texts: Sequence[str]) -> list[float]:
        """Return the log-likelihood of each whole text, the first token after end-of-text.

        Texts longer than the context are cut into windows, as `lost.evaluation.perplexity` cuts them.
        """
        windows: list[ScoreRequest] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            ids = [self.begin, *self.tokenizer.encode(text).tolist()]
            for window in evaluation_batches(np.array(ids), self.context, 1) if len(ids) > 1 else ():
                windows.append(ScoreRequest(window.tokens[0], window.predictions))
                owners.append(number)
        totals = [0.0] * len(texts)
        for owner, score in zip(owners, self._scores("windows of text", windows), strict=True):
            totals[owner] += score.log_likelihood
        return totals

    def _scores(self, kind: str, requests: list[ScoreRequest]) -> list[Score]:
        self.longest = max([self.longest, *(len(each.tokens) - 1 for each in requests)])

        def progress(done: int) -> None:
            self._progress(kind, done, len(requests))

        return score_requests(self._engine, requests, self._tokens_at_once, progress)

    def generations(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Return the continuation of each context, up to a stop string, end-of-text or the task's limit.

        Args:
            requests: (context, the task's `generation_kwargs`).

        Raises:
            UserError: unsupported settings, or no room for the context.
        """
        answers = []
        for context, settings in requests:
            answers.append(self._generate(context, settings))
            self._progress("generations", len(answers), len(requests))
        return answers

    def _generate(self, context: str, settings: Mapping[str, Any]) -> str:
        writing = written(settings, self.context)
        # One for all requests with the same settings, so that repeats differ.
        sampler = self._samplers.setdefault(writing.sampling, writing.sampler())
        prompt = self._last(self.encode(context) or [self.begin], self.context - writing.limit)
        self.longest = max(self.longest, len(prompt) + writing.limit - 1)
        vocabulary = self.tokenizer.vocab_size
        sampler.begin(prompt)
        generated = self._engine.generate(prompt, lambda logits: sampler(logits[:vocabulary]), writing.limit)
        tokens = takewhile(lambda token: token not in self._ends, generated)
        return "".join(until(self.tokenizer.stream(tokens), writing.stops))

    def _last(self, tokens: list[int], room: int) -> list[int]:
        self.num_truncated += len(tokens) > room
        return tokens[-room:]


def as_lm_eval_model(model: LmEvalModel) -> Any:
    """Return the model as an `lm_eval` model."""
    from lm_eval.api.model import TemplateLM

    class EngineLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
        @property
        def eot_token_id(self) -> int:
            return model.tokenizer.end_of_text

        @property
        def prefix_token_id(self) -> int:
            return model.begin

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            return model.tokenizer.encode(string).tolist() if add_special_tokens is False else model.encode(string)

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
