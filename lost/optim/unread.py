"""Settings of a run's rates that were changed and that nothing reads: worth a word, as somebody expects them to act."""

from collections.abc import Iterable, Iterator

from lost.config import Config, OptimizerConfig, ScheduleConfig
from lost.model.parameters import EMBEDDING, HEAD, parameter_table
from lost.optim import KINDS as OPTIMIZERS
from lost.optim import optimizer_of
from lost.optim.rates.schedule import KINDS as SCHEDULES

Keys = frozenset[str] | None


def unread(config: Config) -> Iterator[str]:
    """Yield a sentence for each such setting.

    Args:
        config: its vocabulary known.
    """
    table = parameter_table(config)
    for key, name in (("embedding_lr", EMBEDDING), ("head_lr", HEAD)):
        value = getattr(config.optimizer, key)
        if value is None or (name in table and table[name].trained):
            continue
        tied = name not in table and EMBEDDING in table and table[EMBEDDING].trained
        why = "the head is the embedding (model.tie_word_embeddings)" if tied else "it isn't trained"
        yield f"optimizer.{key} = {value:g} does nothing: {why}; leave it out"
    optimizers, schedules = ([kind.reads for kind in kinds.values()] for kinds in (OPTIMIZERS, SCHEDULES))
    yield from _of_others("optimizer", config.optimizer, optimizer_of(config).reads, optimizers)
    yield from _of_others("schedule", config.schedule, SCHEDULES[config.schedule.name].reads, schedules)


def _of_others(
    section: str, settings: OptimizerConfig | ScheduleConfig, own: Keys, kinds: Iterable[Keys]
) -> Iterator[str]:
    """Yield a sentence for each changed setting that some kinds read and this one doesn't, if it says what it reads."""
    others = frozenset() if own is None else frozenset().union(*(keys or () for keys in kinds)) - own
    for key in sorted(others):
        if (value := getattr(settings, key)) != type(settings).model_fields[key].default:
            yield f"{section}.{key} = {value} does nothing: {settings.name} doesn't read it; leave it out"
