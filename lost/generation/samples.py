"""Texts that a model in training writes now and then (`train.sample_every`)."""

from collections.abc import Callable
from typing import Any

from lost.config import Config
from lost.engine import Engine
from lost.errors import ConfigError
from lost.generation.continuation import Continuation
from lost.generation.sampler import Sampler
from lost.tokenizer import Tokenizer

_TOP_P = 0.95  # as `lost generate` has it
_MOST = 4000  # characters of a text: a row of metrics.jsonl with as many prompts as may be is still one that is read


def beginnings(config: Config, tokenizer: Tokenizer) -> list[tuple[str, list[int]]]:
    """Return each prompt with its tokens, after end-of-text.

    Raises:
        ConfigError: a prompt leaves no room for a sample.
    """
    begins = []
    for prompt in config.train.sample_prompts or [""]:
        tokens = [tokenizer.end_of_text, *tokenizer.encode(prompt).tolist()]
        if len(tokens) >= config.data.seq_len:
            raise ConfigError(
                f"train.sample_prompts: {prompt!r:.60} has {len(tokens)} tokens, end-of-text before it; expected fewer "
                f"than data.seq_len = {config.data.seq_len}, so that a sample follows; shorten it"
            )
        begins.append((prompt, tokens))
    return begins


def write_samples(
    engine: Engine, config: Config, tokenizer: Tokenizer, step: int, check: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Return what the model writes after a step, by each prompt.

    The random numbers are keyed by the run's seed, the step, and the prompt's place: they depend on nothing that was
    drawn before. Workers that share a model all call this.

    Args:
        engine: holds the model.
        config: of the run.
        tokenizer: the model's.
        step: the last one.
        check: called with each piece of text, on all workers alike; its exceptions end the writing.

    Returns:
        prompt: what it continues.
        text: what it wrote.
        tokens: how many of them.
        ended: `end_of_text` or `length`.
    """
    train, samples = config.train, []
    for place, (prompt, begin) in enumerate(beginnings(config, tokenizer)):
        name = f"samples.{step}.{place}"
        sampler = Sampler(train.sample_temperature, top_p=_TOP_P, seed=train.seed, name=name)
        limit = min(train.sample_tokens, config.data.seq_len - len(begin))
        continuation, text = Continuation(engine, tokenizer, begin, sampler, limit), ""
        for piece in continuation:
            check()
            text += piece
            if len(text) > _MOST:
                break
        ended = "end_of_text" if continuation.ended == "end_of_text" else "length"
        samples.append({"prompt": prompt, "text": text[:_MOST], "tokens": len(continuation.tokens), "ended": ended})
    return samples
