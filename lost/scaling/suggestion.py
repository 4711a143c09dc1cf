"""A run that suits what there is of time, text and experience: its size, tokens, batch, rate and steps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lost.config import Config
from lost.config.document import assignment
from lost.config.schedule import LENGTHS
from lost.data.loader import SampleStream
from lost.errors import ConfigError, UserError
from lost.model.parameters import parameter_table
from lost.optim import optimizer_of
from lost.planning.budget import Budget, budget
from lost.planning.horizon import with_steps
from lost.scaling.comparison import FAR
from lost.scaling.family import FittedFamily, family_of, fitted
from lost.scaling.law import missing
from lost.scaling.rules import TOKENS_PER_PARAMETER, critical_batch, round_batch, step_law_batch, step_law_rate, worth
from lost.scaling.runs import TrainedRun, read_runs
from lost.scaling.shapes import shapes

_KNOWN_BY = {True: "Step Law", False: "the configuration"}
_WARM_UP = 0.1  # of a run whose configuration has none
Speed = Callable[[Config], float]
"""Returns the tokens a second that a configuration trains; measured, so that it is asked seldom."""
Fits = Callable[[Config], bool]


@dataclass(frozen=True)
class Experience:
    """What finished runs of the same kind say.

    Attributes:
        proxy: the largest of those that did best in their size and tokens; its rate and batch count as tuned.
        tokens: of it.
        loss: that it came to.
        law: of all of them, where they are enough.
    """

    proxy: TrainedRun
    tokens: int
    loss: float
    law: FittedFamily | None


@dataclass(frozen=True)
class Suggestion:
    """A run.

    Attributes:
        config: of it, all but the data's place.
        budget: of it.
        tokens: that it reads, in whole steps.
        speed: tokens a second, measured.
        loss: that it will come to, by the runs' law; None: there is none.
        interval: of it, 95 %.
        critical_batch: in tokens, at that loss, or else at the proxy's; None: neither is known.
    """

    config: Config
    budget: Budget
    tokens: int
    speed: float
    loss: float | None
    interval: tuple[float, float] | None
    critical_batch: float | None


@dataclass(frozen=True)
class Reading:
    """How a run reads its text.

    Attributes:
        epochs: over each set.
        fresh_tokens: so many tokens of text never seen before would do as much.
    """

    epochs: list[float]
    fresh_tokens: float


def experience_of(paths: Sequence[Path], config: Config) -> tuple[Experience, list[str]]:
    """Return what runs in folders say of runs of a configuration's kind, and which are left out and why.

    Raises:
        UserError: none of them is finished, of its kind, and of its optimizer.
    """
    runs, left_out = read_runs(paths)
    kind, rates = config.projection.kind, _rates_of(config)
    serving = [run for run in runs if (run.kind, _rates_of(run.config)) == (kind, rates)]
    serving = [run for run in serving if run.config.optimizer.base_width is None]
    if not serving:
        optimizer = ", ".join(f"optimizer.{key} = {value}" for key, value in rates.items())
        raise UserError(
            f"--from {', '.join(map(str, paths))}: no run of projection.kind = {kind} with {optimizer} and rates of "
            "its own (no base_width) that has a validation; expected some: rates don't carry over between kinds or "
            "optimizers; train one, such as by `lost sweep`, or leave --from out"
        )
    ends, _ = family_of(serving, ends=True)
    tokens, run = max(zip(ends.tokens, ends.runs, strict=True), key=lambda each: each[0] * each[1].size)
    law, (family, more) = None, family_of(serving, ends=False)
    if not missing(family.points("parameters")):
        law = fitted(family)
    loss = next(iter(run.at_end().values()))
    return Experience(run, tokens, loss, law), [*left_out, *more]


def suggest(
    config: Config,
    speed: Speed,
    fits: Fits,
    seconds: float | None = None,
    tokens: float | None = None,
    experience: Experience | None = None,
) -> Suggestion:
    """Return a run like the one that a configuration describes, of another size where time or tokens are given.

    With tokens it has a parameter for every 20, embeddings and head not counted. With time, the tokens that it can read
    in it are 20 for each of these; or where the runs' law is known, the loss is the lowest. With neither it has the
    configuration's size, and 20 tokens for each of these.

    Args:
        config: its vocabulary known.
        speed: measures; it refuses what doesn't fit the device.
        fits: whether a configuration fits the device.
        seconds: that the run may take.
        tokens: that it is to read.
        experience: finished runs; None: rate and batch are Step Law's own.

    Raises:
        ConfigError: no size fits the device, or rates follow from `optimizer.base_width` already; and what `speed`
            raises.
    """
    if config.optimizer.base_width:
        raise ConfigError(
            f"optimizer.base_width = {config.optimizer.base_width} with --suggest: both set rates by the model's size; "
            "expected one of them; leave out the other"
        )
    if not config.schedule.epochs:
        config = with_steps(config)  # of which warm-up and decay are shares
    chosen = config
    if tokens:
        chosen = _closest(config, fits, lambda counts: tokens / counts.without_embeddings)
    elif seconds:
        measured = config if fits(config) else _first(config, fits, lambda counts: -counts.parameters)
        flops = speed(measured) * budget(measured).flops_per_token * seconds
        chosen = _for_flops(config, fits, flops, experience.law if experience else None)
    counts = budget(chosen)
    read = tokens or TOKENS_PER_PARAMETER * counts.without_embeddings
    rate = speed(_with_batch(chosen, read, experience))
    read = rate * seconds if seconds else read
    final = _with_rate(_with_batch(chosen, read, experience), counts, read, experience)
    read = final.schedule.total_steps * final.tokens_per_step
    loss, between = None, None
    if experience and experience.law:
        loss, between = experience.law.parameters.predict(counts.without_embeddings, read)
    known = loss or (experience.loss if experience else None)
    return Suggestion(final, counts, read, rate, loss, between, critical_batch(known) if known else None)


def report(suggested: Suggestion, experience: Experience | None, reading: Reading | None) -> dict[str, Any]:
    """Return the answer of `lost plan --suggest --json`, but for the command.

    Args:
        suggested: the run.
        experience: as it was suggested from.
        reading: of its text; None: none is named.
    """
    config, counts = suggested.config, suggested.budget
    return {
        "model": config.model.model_dump(mode="json"),
        "rank": config.projection.rank,
        "parameters": {"total": counts.parameters, "without_embeddings": counts.without_embeddings},
        "tokens": suggested.tokens,
        "tokens_per_parameter": suggested.tokens / counts.parameters,
        "tokens_per_parameter_without_embeddings": suggested.tokens / counts.without_embeddings,
        "batch_size": config.train.batch_size,
        "batch_tokens": config.tokens_per_step,
        "lr": config.optimizer.lr,
        "rate_from": str(experience.proxy.folder) if experience else _KNOWN_BY[follows_step_law(config)],
        "steps": config.schedule.total_steps,
        "warmup_steps": config.schedule.warmup_steps,
        "tokens_per_second": suggested.speed,
        "seconds": suggested.tokens / suggested.speed,
        "reading": reading and asdict(reading),
        "critical_batch_tokens": suggested.critical_batch,
        "loss": suggested.loss,
        "interval": suggested.interval,
    }


def settings(before: Config, after: Config) -> list[str]:
    """Return what `--set` takes to make a configuration of another."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return [
        assignment(f"{section}.{key}", value)
        for section in new
        for key, value in new[section].items()
        if value != old[section].get(key) and not (section == "schedule" and value is None)
    ]


def follows_step_law(config: Config) -> bool:
    """Whether a configuration's optimizer has AdamW's rates, which the law is of."""
    return optimizer_of(config).has_adamws_rates


def _rates_of(config: Config) -> dict[str, Any]:
    """Return the settings on which it depends which rates suit: the optimizer's name, and those that it says."""
    return {key: getattr(config.optimizer, key) for key in ("name", *optimizer_of(config).rate_settings)}


def reading(suggested: Suggestion, stream: SampleStream, shares: Sequence[float]) -> Reading:
    """Return how a run reads its text.

    Args:
        suggested: the run.
        stream: of the text.
        shares: of the samples, drawn from each set.
    """
    epochs = stream.epochs(suggested.tokens // suggested.config.data.seq_len)
    parts = zip(shares, epochs, strict=True)
    return Reading(epochs, suggested.tokens * sum(share * worth(each) / each for share, each in parts))


def _for_flops(config: Config, fits: Fits, flops: float, law: FittedFamily | None) -> Config:
    """Return the size that makes the best of so many FLOPs."""
    if law:
        trained, constants = [run.size for run in law.family.runs], law.parameters.law
        known = {
            float(constants.loss(counts.without_embeddings, flops / counts.flops_per_token)): each
            for each in shapes(config)
            if min(trained) / FAR <= (counts := budget(each)).without_embeddings <= max(trained) * FAR
        }
        if found := next((known[loss] for loss in sorted(known) if fits(known[loss])), None):
            return found
    return _closest(config, fits, lambda counts: flops / counts.flops_per_token / counts.without_embeddings)


def _closest(config: Config, fits: Fits, tokens_per_parameter: Callable[[Budget], float]) -> Config:
    """Return the size with which there are about 20 tokens for each parameter without embeddings.

    With them a small model would be nothing else: 5,632 entries, both ways, are 180,000 weights at a width of 16.

    Raises:
        ConfigError: none fits the device.
    """
    return _first(config, fits, lambda counts: abs(math.log(tokens_per_parameter(counts) / TOKENS_PER_PARAMETER)))


def _first(config: Config, fits: Fits, key: Callable[[Budget], float]) -> Config:
    """Return, of the sizes that fit the device, the one whose key is the least.

    Raises:
        ConfigError: none fits.
    """
    found = next((each for each in sorted(shapes(config), key=lambda each: key(budget(each))) if fits(each)), None)
    if found is None:
        raise ConfigError(
            "no size of this model fits the device, however small; expected one that does; `lost plan` without "
            "--suggest says what takes its memory"
        )
    return found


def _with_batch(config: Config, tokens: float, experience: Experience | None) -> Config:
    """Return the configuration with the batch for a run of so many tokens."""
    wanted = step_law_batch(tokens)
    if experience:
        wanted *= experience.proxy.config.tokens_per_step / step_law_batch(experience.tokens)
    batch, at_once = round_batch(wanted / config.data.seq_len), config.train.micro_batch_size
    if batch != config.train.batch_size and (at_once is None or (isinstance(at_once, int) and batch % at_once)):
        at_once = "auto"  # all of another batch at once may not fit, nor its parts divide it
    return config.replace("train", batch_size=batch, micro_batch_size=at_once)


def _with_rate(config: Config, counts: Budget, tokens: float, experience: Experience | None) -> Config:
    """Return the configuration with the rates and the schedule for a run of so many tokens."""
    optimizer, schedule = config.optimizer, config.schedule
    rate = optimizer.lr
    if experience:
        tuned, by_width = experience.proxy, _width_power(config)
        rate = tuned.config.optimizer.lr * step_law_rate(counts.without_embeddings, tokens, by_width)
        rate /= step_law_rate(tuned.size, experience.tokens, by_width)
    elif follows_step_law(config):
        rate = step_law_rate(counts.without_embeddings, tokens)
    rate = float(f"{rate:.2e}")
    own = {key: getattr(optimizer, key) for key in ("embedding_lr", "head_lr")}
    rates = {key: each and float(f"{rate * each / optimizer.lr:.2e}") for key, each in own.items()}
    steps = math.ceil(tokens / config.tokens_per_step)
    known = schedule.steps
    warm_up = schedule.warmup_ratio or (known and schedule.warmup_steps / known) or _WARM_UP
    decay = schedule.decay_ratio
    if schedule.decay_steps is not None:
        decay = schedule.decay_steps / (known or steps)
    warm_up = min(steps, round(warm_up * steps))
    lengths = {
        **dict.fromkeys((*LENGTHS, "warmup_ratio", "decay_ratio")),
        "steps": steps,
        "warmup_steps": warm_up,
        "decay_steps": None if decay is None else min(round(decay * steps), steps - warm_up),
    }
    return config.replace("optimizer", lr=rate, **rates).replace("schedule", **lengths)


def _width_power(config: Config) -> float:
    """Return the power of the width by which the rate of the blocks' matrices goes; that of the rest is no higher."""
    optimizer = optimizer_of(config)
    return max(optimizer.width_powers(row)[0] for row in parameter_table(config).values())
