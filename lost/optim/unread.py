"""Settings of a run's rates that were changed and that nothing reads: worth a word, as somebody expects them to act."""

from collections.abc import Iterator

from lost.config import Config, OptimizerConfig
from lost.config.schedule import ScheduleConfig
from lost.model.parameters import EMBEDDING, HEAD, parameter_table
from lost.optim import optimizer_of
from lost.optim.schedule import KINDS


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
    for key in sorted(optimizer_of(config).ignores):
        if (value := getattr(config.optimizer, key)) != OptimizerConfig.model_fields[key].default:
            yield f"optimizer.{key} = {value} does nothing: {config.optimizer.name} doesn't read it; leave it out"
    for key in sorted(KINDS[config.schedule.name].ignores):
        if (value := getattr(config.schedule, key)) != ScheduleConfig.model_fields[key].default:
            yield f"schedule.{key} = {value} does nothing: {config.schedule.name} doesn't read it; leave it out"
