"""What is asked for, and all checks of it that write nothing."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lost.bench.precision import with_dtype
from lost.checkpoint import CHECKPOINTS
from lost.config import Config, TrainConfig
from lost.data.dataset import DESCRIPTION, Dataset
from lost.data.mixture import open_dataset, with_data
from lost.distributed.group import Workers, agree, local_batch_size
from lost.engine import Engine, backend_module, resolve_backend
from lost.errors import ConfigError, UserError
from lost.evaluation.further import further_sets
from lost.generation.samples import beginnings
from lost.interop.source import Source
from lost.model.adapted import adapters, check_used
from lost.model.init import check_trains
from lost.model.load import load_config
from lost.optim.unread import unread
from lost.planning.alignment import unaligned
from lost.planning.horizon import with_steps
from lost.planning.micro_batch import with_micro_batch
from lost.planning.room import check_room
from lost.planning.vocabulary import unused_rows
from lost.storage.remote import Remote
from lost.tracking import KINDS as TRACKERS
from lost.training.origin.branch import check_branch, check_tokenizer, keeps_place
from lost.training.origin.init_from import beginning, check_fit
from lost.training.origin.ranks import with_moved_ranks
from lost.training.profile import Tracing
from lost.training.run import open_data
from lost.training.run_dir import (
    CONFIG,
    check_data,
    check_place,
    config_file,
    last_config,
)
from lost.training.teacher import Teacher, open_teacher


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        config: a YAML file, a shipped name, or a run folder; None: all but the data follows `init_from`.
        data: a prepared set; None: what the configuration names.
        out: the run folder; None: the one that `config` is, or runs/NAME.
        init_from: weights to begin with.
        branch_from: RUN[@STEP] to go on from in another folder.
        overrides: `section.key=value`.
        backend: its name, or auto.
        device: its name, or auto.
        wired_gib: memory to wire; None: as it is.
        fresh: whether to begin at step 0 whatever is there.
        overwrite: whether to remove the checkpoints that are there.
        mirror: an address where checkpoints are copied to.
        profile: whether to trace some steps.
    """

    config: str | None
    data: Path | None = None
    out: Path | None = None
    init_from: Path | None = None
    branch_from: Path | None = None
    overrides: Sequence[str] = ()
    backend: str = "auto"
    device: str = "auto"
    wired_gib: float | None = None
    fresh: bool = False
    overwrite: bool = False
    mirror: str | None = None
    profile: bool = False


@dataclass(frozen=True)
class Ready:
    """A run that may start; nothing is written yet.

    Attributes:
        config: resolved, its vocabulary, its type of computation and its micro-batch known.
        written: as the run folder keeps it: where the micro-batch is left to the device, it stays so.
        folder: the run folder; it may not exist yet.
        dataset: the prepared text.
        further: sets that are evaluated too, by name.
        source: the weights to begin with, where they are needed still.
        branches: whether all that the source's run goes on with comes along.
        backend: the backend's name.
        device: resolved.
        workers: the processes of the run.
        fresh: as asked.
        overwrite: as asked.
        remote: where checkpoints are copied to.
        tracing: the backend's, where a profile is wanted.
        teacher: what the run learns from beside the data.
    """

    config: Config
    written: Config
    folder: Path
    dataset: Dataset
    further: dict[str, Dataset]
    source: Source | None
    branches: bool
    backend: str
    device: str
    workers: Workers
    fresh: bool
    overwrite: bool
    remote: Remote | None
    tracing: Tracing | None
    teacher: Teacher | None

    @property
    def teaches(self) -> str | None:
        """The teacher's identity."""
        return self.teacher.identity if self.teacher else None

    @property
    def teacher_memory(self) -> int:
        """The bytes that a process holds of the teacher."""
        return self.teacher.memory(self.config) if self.teacher else 0

    @property
    def begins(self) -> bool:
        """Whether it begins with weights that aren't adapted yet, which its adapters may begin by."""
        return _begins(self.source)

    @property
    def first_step(self) -> int:
        """The step at which a run that begins has its first checkpoint."""
        keeps = self.branches and self.source and keeps_place(self.source, self.dataset)
        return self.source.progress.step if keeps and self.source and self.source.progress else 0

    def engine(self, config: Config | None = None) -> Engine:
        """Make the engine of the run, or of another configuration."""
        return backend_module(self.backend).create(config or self.config, self.device, self.workers)

    def remarks(self) -> Iterator[str]:
        """Yield what is to be said of a model that doesn't train yet, and so can still be changed."""
        yield from filter(None, (unused_rows(self.config, self.dataset), unaligned(self.config, self.device)))
        yield from unread(self.config)

    def check(self) -> None:
        """Read all data, and see that every worker would do the same; all of them call this.

        Raises:
            UserError: the run can't start.
        """
        soft = [self.teacher.targets] if self.teacher and self.teacher.targets else []
        check_data(self.dataset, [*self.further.values(), *soft], self.workers)
        sets = {"": self.dataset, **self.further}
        prints = {name: each.fingerprint for name, each in sets.items()} | {"the teacher": self.teaches or ""}
        agree(self.workers, self.config, prints, self.backend)


def ready(asked: Request, say: Callable[[str], None] = lambda text: None, measures: bool = True) -> Ready:
    """Read the configuration, open the data, find the device, and see that the run fits.

    Args:
        asked: what is asked for.
        say: receives what is measured meanwhile.
        measures: whether a type of computation that is left to the device is measured; else it stays so.

    Raises:
        UserError: it can't start so.
    """
    if asked.overwrite and not asked.fresh:
        raise UserError("--overwrite was given without --fresh: it would do nothing; add --fresh, or leave it out")
    if asked.init_from and asked.branch_from:
        raise UserError("--init-from and --branch-from: a run begins with one of them; leave out the other")
    remote = Remote(asked.mirror) if asked.mirror is not None else None
    origin, branches = asked.branch_from or asked.init_from, asked.branch_from is not None
    file, folder = run_place(asked.config, asked.out, origin)
    check_place(folder)
    follows, source = None, None
    if origin:
        follows, source = beginning(origin, folder, asked.fresh, file is not None, branches)
    config = load_config(file, asked.overrides, follows)
    if follows and branches and not (config.data.path or config.data.mixture):
        config = config.replace("data", path=follows.data.path, mixture=follows.data.mixture)
    dataset = open_dataset(config.data, asked.data)
    if source:
        check_tokenizer(source, dataset)
    config = with_steps(with_data(config, dataset), dataset)
    if source and branches:
        check_branch(source, config, dataset)
    elif source:
        check_fit(source, config)
    open_data(config, dataset)
    teacher = open_teacher(config, dataset)
    if teacher:
        config = config.replace("teacher", path=teacher.place)
    further = further_sets(config.data, dataset.tokenizer)
    for each in config.tracking:
        TRACKERS[each]  # known, or a ConfigError
    name = resolve_backend(asked.backend)
    module = backend_module(name)
    if config.train.sample_every:
        beginnings(config, dataset.tokenizer)  # there is room after each, or a ConfigError
        module.check_generation()
    device = module.resolve(asked.device)
    tracing = module.tracing(device) if asked.profile else None
    workers = module.join(device)
    if workers.rank == 0:
        for each, settings in config.tracking.items():
            TRACKERS[each](folder, config, settings)  # are they right, and is its library there
    check_used(config)
    room = module.capacity(device)
    before = source.config.train if source and branches else _before(None if asked.fresh else folder, workers)
    if not before and not source:
        check_trains(config)
    room_of_all = min(map(int, workers.all_gather(str(room))))  # by all, whatever their configuration says
    if config.train.dtype == "auto" and before:
        config = config.replace("train", dtype=before.compute_dtype)
    elif config.train.dtype == "auto" and measures:
        if workers.world_size > 1:
            raise ConfigError(
                f"train.dtype = auto, with {workers.world_size} processes: one process alone measures; expected "
                "float32 or bfloat16; name one"
            )
        config = with_dtype(config, name, device, room_of_all, say)
    written = config
    beside = teacher.memory(config) if teacher else 0
    config = with_micro_batch(
        config, name, device, room_of_all - beside, workers.world_size, before.micro_batch if before else None
    )
    _check_micro_batches(config, workers)
    check_room(config, name, device, room, workers.world_size, beside, _begins(source))  # before ranks are measured
    begins, held_by = source if measures else None, None if asked.fresh else folder
    config = with_moved_ranks(config, held_by, begins, dataset, name, device, workers, say)
    written = written.replace("projection", overrides=config.projection.overrides)
    check_room(config, name, device, room, workers.world_size, beside, _begins(source))
    if asked.wired_gib is not None:
        module.wire(int(asked.wired_gib * 2**30), device)
    return Ready(
        config, written, folder, dataset, further, source, branches, name, device, workers, asked.fresh,
        asked.overwrite, remote, tracing, teacher,
    )  # fmt: skip


def _begins(source: Source | None) -> bool:
    return source is not None and not adapters(source.config)


def _before(folder: Path | None, workers: Workers) -> TrainConfig | None:
    """Return what a run's newest checkpoint says of training, to all workers; None: there is no such run."""
    config = last_config(folder) if folder and workers.rank == 0 else None
    values = json.loads(workers.broadcast(config.train.model_dump_json() if config else "null"))
    return TrainConfig.model_validate(values) if values else None


def _check_micro_batches(config: Config, workers: Workers) -> None:
    """Check that a step has several micro-batches, where they are to be compared."""
    share, size = local_batch_size(config, workers.world_size)
    if config.train.noise_scale_every and share == size:
        raise ConfigError(
            f"train.noise_scale_every = {config.train.noise_scale_every}: a step is one micro-batch "
            f"(train.micro_batch_size = {size}), and the noise scale is seen where several differ; expected at least "
            "two; lower train.micro_batch_size, or raise train.batch_size"
        )


def run_place(config: str | None, out: Path | None, origin: Path | None) -> tuple[Path | str | None, Path]:
    """Return the configuration's file or name, None where everything follows the weights, and the run folder.

    Raises:
        UserError: one of them isn't named.
    """
    if config is None:
        if origin and out is None:
            raise UserError(
                f"the weights of {origin} without a configuration: the new run has no name; expected a folder for it; "
                "name one with --out"
            )
        if origin is None or out is None:
            raise UserError(
                "no configuration: expected a YAML file, a shipped name such as quickstart, or a run folder; name one, "
                "or begin with other weights with --init-from RUN --out NEW_RUN"
            )
        return None, out
    if (Path(config) / DESCRIPTION).is_file():
        raise UserError(
            f"{config} is a prepared set, not a configuration; expected a YAML file or a shipped name such as "
            f"quickstart; name one, and the set with --data {config}"
        )
    if of_run := config_file(Path(config)):
        return of_run, out or Path(config)
    path = Path(config)
    if out is None and path.name == CONFIG and (path.parent / CHECKPOINTS).is_dir():
        raise UserError(
            f"{path} is the configuration of the run {path.parent}, and a new run by it has no name; expected the run, "
            f"to go on with it: `lost train {path.parent}`; or name a new folder with --out"
        )
    return config, out or Path("runs") / path.stem
