"""The micro-batch of a run that leaves it to the device (`train.micro_batch_size: auto`)."""

from lost.config import Config
from lost.distributed.group import local_batch_size
from lost.planning.room import fits, smaller_micro_batch

# A CPU gains nothing by more tokens at once, and other programs live in its memory: what a run takes there unasked.
_CPU_TOKENS, _CPU_SHARE = 1 << 14, 0.5
# Gathering once a step sends several times less than gathering in each micro-batch. With somewhat fewer sequences at
# once a card computes almost as fast; not with so many times fewer.
_WORTH = 4


def with_micro_batch(
    config: Config, backend: str, device: str, room: int, workers: int = 1, before: int | None = None
) -> Config:
    """Return the configuration with a number of sequences in place of `auto`; any other as it is.

    On an accelerator as many as fit by the estimate, beside weights that are gathered once a step unless few would fit
    so; on a CPU the whole share of the batch, but at most 16,384 tokens and half of the memory. A run keeps its number,
    and with it the order of sums, while it fits and divides the share; but an accelerator on which over twice as many
    fit gets them.

    Args:
        config: its vocabulary known.
        backend: torch or mlx.
        device: as the backend names it.
        room: the memory in bytes that a run may take there.
        workers: processes that share the batch.
        before: the number that the run has had so far.

    Returns:
        With 1 where nothing fits.

    Raises:
        ConfigError: the batch can't be divided among the workers.
    """
    if config.train.micro_batch_size != "auto":
        return config
    share = most = local_batch_size(config, workers)[0]
    limit, on_cpu = room, device == "cpu"
    if on_cpu:
        most, limit = min(share, _CPU_TOKENS // config.data.seq_len), int(_CPU_SHARE * room)
    chosen = smaller_micro_batch(config, backend, device, limit, workers, below=most + 1) or 1
    if not on_cpu and backend == "torch" and workers > 1 and config.teacher.path is None:  # beside one none stay whole
        beside = smaller_micro_batch(config, backend, device, room, workers, chosen + 1, whole_steps=True)
        chosen = beside if beside and beside * _WORTH >= chosen else chosen
    keeps = before and share % before == 0 and fits(config, backend, device, room, workers, before)
    if before and keeps and (on_cpu or chosen <= 2 * before):
        chosen = before
    return config.replace("train", micro_batch_size=chosen)


def half(config: Config, workers: int) -> int | None:
    """Return the largest micro-batch of at most half the size that divides a worker's share; None: there is none."""
    share, micro_batch = local_batch_size(config, workers)
    return next((size for size in range(micro_batch // 2, 0, -1) if share % size == 0), None)
