"""What may change in a run that is resumed, and in which keys two configurations differ."""

from lost.checkpoint.checkpoint import Checkpoint
from lost.config import Config
from lost.optim.rates.schedule import agree_until

# Keys whose values may change: none of it changes the results, except for rounding. So may the schedule, as
# far as it leaves the rates of the steps that were taken as they were.
MUTABLE_KEYS = {
    "data.path",
    "data.mixture",  # paths: other data, or other proportions, are refused by the fingerprint
    "data.also_evaluate",
    "teacher.path",  # another teacher is refused by its identity
    *(f"train.{key}" for key in ("micro_batch_size", "replicas", "compile", "checkpoint_activations")),
    *(f"train.{key}" for key in ("deterministic", "matmul_precision")),
    *(f"train.{key}" for key in ("log_every", "eval_every", "eval_tokens", "inspect_every", "noise_scale_every")),
    *(f"train.{key}" for key in ("save_every", "keep_last", "keep_every", "on_save_error", "max_skipped")),
    *(f"train.{key}" for key in ("stop_after", "early_stop")),
    *(f"train.sample_{key}" for key in ("every", "prompts", "tokens", "temperature")),
}


def differences(old: Config, new: Config) -> dict[str, str]:
    """Return the differences of two configurations: by key, a text with both values."""
    before, after = _flat(old), _flat(new)
    return {
        key: f"{key} = {after.get(key)!r}, was {before.get(key)!r}"
        for key in {**before, **after}
        if _in_order(before.get(key)) != _in_order(after.get(key))
    }


def fixed_differences(old: Config, new: Config, step: int) -> dict[str, str]:
    """Return the differences, as `differences` does, with which a run that is at a step can't be resumed."""
    free = ("tracking.", "schedule.") if agree_until(old.schedule, new.schedule, step) else ("tracking.",)
    return {
        key: text for key, text in differences(old, new).items() if key not in MUTABLE_KEYS and not key.startswith(free)
    }


def same_run(one: Checkpoint, other: Checkpoint) -> bool:
    """Say whether two checkpoints can be of one run: the later one could have come of resuming the earlier one."""
    first, second = sorted((one, other), key=lambda each: each.progress.step)
    before, after = first.progress, second.progress
    given = [(each.data, each.origin, each.teacher) for each in (before, after)]
    return given[0] == given[1] and not fixed_differences(first.config, second.config, before.step)


def _in_order(value: object) -> object:
    """Return a value that also differs by the order of its keys: the last of `overrides` that matches wins."""
    return list(value.items()) if isinstance(value, dict) else value


def _flat(config: Config) -> dict[str, object]:
    return {
        f"{section}.{key}": value
        for section, keys in config.model_dump(mode="json").items()
        for key, value in keys.items()
    }
