"""What `lost convert` was asked for, and what a job of it takes: any other option is refused, never ignored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

if TYPE_CHECKING:
    from lost.config import DType
    from lost.errors import UserError
    from lost.interop.to_gguf.tensors import GgufType

Answer = tuple[dict[str, Any], list[str]]
"""What is answered: as JSON, and as lines."""
_WITH_VALUE = ("to", "source_kind")  # these name a job, which the value decides
_EVERY_JOBS = {"--overwrite", "--json", "--to lost", "--from lost"}  # the defaults may be typed as well


@dataclass(frozen=True)
class Request:
    """The options of `lost convert`, which says what each means.

    Attributes:
        given: how each option that was typed is named in messages, by its name; that of `--to` and `--from` is with
            its value.
    """

    source: Path
    out: Path
    to: Literal["lost", "hf", "mlx-lm", "dense", "gguf", "peft"]
    source_kind: Literal["lost", "hf"]
    rank: int | None
    budget: float | None
    budget_of: Literal["parameters", "flops"] | None
    search: int | None
    seed: int | None
    density: float | None
    calibrate: Path | None
    weight_by: Literal["activations", "fisher"] | None
    text: Path | None
    bits: Literal["4", "8"] | None
    group_size: Literal["32", "64", "128"] | None
    dtype: "GgufType | None"
    weights_only: bool
    tokenizer: Path | None
    end_of_text: str | None
    prune_vocab: list[str]
    part_mib: int
    overwrite: bool
    grow: list[str]
    layers_by: Literal["stack", "interleave", "identity"] | None
    moments: Literal["drop", "keep"] | None
    license: str | None
    push: str | None
    public: bool
    dry_run: bool
    backend: str
    device: str
    given: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, context: typer.Context, values: Mapping[str, Any]) -> "Request":
        """Return the request of a command line.

        Args:
            context: of the command.
            values: its parameters, and perhaps more.
        """
        given = {}
        for parameter in context.command.params:
            name = str(parameter.name)
            source = context.get_parameter_source(name)
            if parameter.param_type_name == "option" and source is not None and source.name == "COMMANDLINE":
                option, value = max(parameter.opts, key=len), values[name]
                shown = f"{option} {value}" if isinstance(value, str | int | float) and value is not True else option
                given[shown if name in _WITH_VALUE else option] = shown
        names = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names}, given=given)

    @property
    def part_bytes(self) -> int:
        """After how many bytes a new file is started."""
        return self.part_mib << 20


def own_type(request: Request) -> "DType | None":
    """Return a type that our checkpoints and folders have; the others are GGUF's.

    Raises:
        UserError: it is one of those.
    """
    dtype = request.dtype
    if dtype == "float16" or dtype == "q8_0":
        from lost.errors import UserError

        raise UserError(
            f"--dtype {dtype} with --to {request.to}: expected float32 or bfloat16, or --to gguf; choose one"
        )
    return dtype


@dataclass(frozen=True)
class Need:
    """What an option of a job is nothing without.

    Attributes:
        option: the option.
        any_of: others, one of which has to be given too.
        why: it has.
    """

    option: str
    any_of: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Job:
    """One thing that `lost convert` does.

    Attributes:
        title: the option that asks for it.
        takes: the options that it honours, beside its own and those that every job does.
        run: does it, and returns what is answered.
        needs: options of its own that do nothing alone.
        refuses: why it doesn't take some others, where that isn't plain.
    """

    title: str
    takes: frozenset[str]
    run: Callable[[Request], Answer]
    needs: tuple[Need, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)

    @property
    def honoured(self) -> frozenset[str]:
        """All options that it honours."""
        return self.takes | _EVERY_JOBS | {self.title}


def check(request: Request, job: Job, jobs: tuple[Job, ...]) -> None:
    """Refuse options that a job would ignore.

    Args:
        request: the options.
        job: what is to be done.
        jobs: all that there are.

    Raises:
        UserError: one was given.
    """
    from lost.errors import UserError

    titles = {each.title for each in jobs}
    for option, shown in request.given.items():
        if option in job.honoured:
            continue
        if why := job.refuses.get(option):
            raise UserError(f"{shown} with {job.title}: {why}; leave it out")
        if option in titles:
            raise UserError(
                f"{shown} with {job.title}: expected one thing at a time; do one, and the other with its result"
            )
        takers = tuple(each.title for each in jobs if option in each.takes)
        raise _without(shown, option, takers, f"{job.title} has no use for it")
    for need in job.needs:
        if need.option in request.given and not request.given.keys() & set(need.any_of):
            raise _without(request.given[need.option], need.option, need.any_of, need.why)


def _without(shown: str, option: str, others: tuple[str, ...], why: str) -> "UserError":
    from lost.errors import UserError
    from lost.utils.wording import listed

    what = others[0] if len(others) == 1 else "one of them"
    return UserError(f"{shown} without {listed(others, 'or')}: {why}; add {what}, or leave {option} out")
