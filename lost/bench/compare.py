"""Comparison of projection kinds: one layer, forward and backward, and a whole optimizer step of a model.

The kinds are timed in interleaved rounds, so that other load on the machine affects all of them alike; models differ in
`projection.kind` alone, but for the activation that CoLA always has. What runs, and on which values, is decided here; a
backend adds what `Bench` lists.
"""

import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from lost import __version__
from lost.bench.options import LayerShape, as_kind, at_least
from lost.bench.timing import summarize, time_interleaved
from lost.config import Config, ProjectionSettings, TrainConfig
from lost.data.batch import Batch
from lost.distributed.launcher import check_alone
from lost.engine import Backend, Engine, backend_module
from lost.errors import ConfigError
from lost.model.parameters import parameter_table, projections
from lost.planning.budget import budget
from lost.planning.peak_flops import peak_flops, tokens_at_peak
from lost.planning.room import check_room
from lost.projections import Projection, projection
from lost.utils.machine import cores
from lost.utils.wording import counted, sized

T = TypeVar("T")
Log = Callable[[str], None]

LAYER_ROUNDS, MODEL_ROUNDS = 25, 5
_SAMPLE = 0.01  # least seconds of a timed sample of a layer: longer than the clock's resolution and kernel launches
_STD = 0.02  # of every random weight: values don't affect the time, as long as they are ordinary numbers
_LR = 1e-5


@dataclass(frozen=True)
class Machine:
    """The machine that is measured.

    Attributes:
        version: of the framework.
        device_name: as its vendor calls it.
        threads: on a CPU, where the framework reports them.
        memory: what its peak memory counts, in words.
    """

    version: str
    device_name: str
    threads: int | None
    memory: str


@dataclass(frozen=True)
class Pass:
    """One layer's forward and backward pass.

    Attributes:
        run: runs it that many times, then waits for the device.
        saved_bytes: kept for the backward pass, without parameters; None where unknown.
    """

    run: Callable[[int], None]
    saved_bytes: int | None


class Bench(Protocol):
    """The functions of a backend's module `bench`."""

    def machine(self, device: str) -> Machine:
        """Describe a device."""

    def layer(
        self, projection: Projection, values: Mapping[str, np.ndarray], tokens: int, train: TrainConfig, device: str
    ) -> Pass:
        """Make a layer with these values, and a sequence of `tokens` random inputs with the gradients of its outputs.

        Its backward pass has the gradients of the input and of every trained parameter.
        """

    def peak_memory(self, device: str, call: Callable[[], T]) -> tuple[T, int | None]:
        """Return a call's result, and the peak of bytes held during it above those held before, if known."""

    def saved_bytes(self, engine: Engine, batch: Batch) -> int | None:
        """Return the bytes that a model's forward pass keeps for the backward pass, if known."""


@dataclass(frozen=True)
class Target:
    """A backend by name, and a device as that backend names it."""

    backend: str
    device: str

    @property
    def module(self) -> Backend:
        """The backend's module."""
        return backend_module(self.backend)

    @property
    def bench(self) -> Bench:
        """The backend's benchmarks."""
        return cast(Bench, import_module(f"lost.backends.{self.backend}.bench"))


def measure(
    target: Target,
    config: Config,
    kinds: Sequence[str],
    layer: LayerShape | None,
    model: str | None,
    rounds: int | None = None,
    log: Log = lambda text: None,
) -> dict[str, Any]:
    """Return what `lost bench --json` answers.

    Args:
        target: where to measure.
        config: the model; for the layer, everything but its shape.
        kinds: what to compare.
        layer: None: skip this part.
        model: the configuration's name; None: skip this part.
        rounds: timed ones; None: the default of each part.
        log: receives progress messages.

    Raises:
        UserError: a value is invalid, or the models don't fit the device.
    """
    at_least("--rounds", rounds)
    check_alone()
    machine = target.bench.machine(target.device)
    load = os.getloadavg()[0]
    if target.device == "cpu" and load > cores() / 2:
        log(f"this machine is busy (load {load:.1f}, {cores()} cores): times will be longer and noisier")
    value: dict[str, Any] = {
        "versions": {"lost": __version__, target.backend: machine.version, "python": platform.python_version()},
        "backend": target.backend,
        "device": target.device,
        "device_name": machine.device_name,
        "threads": machine.threads,
        "load_average": load,
        "dtype": config.train.compute_dtype,
        "param_dtype": config.train.param_dtype,
        "layer": None,
        "model": None,
    }
    if layer is not None:
        value["layer"] = _layer(target, config, kinds, layer, rounds or LAYER_ROUNDS, log)
    if model is not None:
        value["model"] = {"config": model, **_model(target, config, kinds, rounds or MODEL_ROUNDS, machine, log)}
    return value


def _layer(
    target: Target, config: Config, kinds: Sequence[str], shape: LayerShape, rounds: int, log: Log
) -> dict[str, Any]:
    log(f"layer: {counted(rounds, 'round')} of {', '.join(kinds)}")
    built, passes = {}, {}
    for kind in kinds:
        measured = {**as_kind(config.projection, kind), "rank": shape.rank, "density": shape.density}
        raw = config.projection.model_dump(include=set(ProjectionSettings.model_fields)) | measured
        part = projection("layer", shape.in_features, shape.out_features, ProjectionSettings.model_validate(raw))
        random = np.random.default_rng(0)
        values = {suffix: _values(random, each.shape, each.below, each.bits) for suffix, each in part.tensors().items()}
        built[kind] = part
        passes[kind] = target.bench.layer(part, values, shape.tokens, config.train, target.device)
    once = time_interleaved({kind: partial(each.run, 1) for kind, each in passes.items()}, rounds=2, warm_up=2)
    calls = math.ceil(_SAMPLE / min(min(times) for times in once.values()))
    times = time_interleaved({kind: partial(each.run, calls) for kind, each in passes.items()}, rounds)
    results = {}
    for kind, part in built.items():
        timing = summarize(times, kind, calls)
        flops = flops_per_token(part) * shape.tokens
        results[kind] = {
            **timing,
            "parameters": part.parameters(),
            "flops": flops,
            "flops_per_second": flops / timing["seconds"]["median"],
            "saved_bytes": passes[kind].saved_bytes,
        }
    return {**asdict(shape), "rounds": rounds, "calls_a_sample": calls, "results": results}


def flops_per_token(part: Projection) -> int:
    """Count a layer's FLOPs, forward and backward: two a multiply-add, a frozen weight without a gradient."""
    whole = replace(part, settings=part.settings.model_copy(update={"bits": None}))  # few bits are of as many entries
    still = sum(each.size for each in whole.tensors().values() if each.frozen and len(each.shape) > 1)
    return 6 * part.multiply_adds() - 2 * still


def _model(
    target: Target, config: Config, kinds: Sequence[str], rounds: int, machine: Machine, log: Log
) -> dict[str, Any]:
    configs = {kind: config.replace("projection", **as_kind(config.projection, kind)) for kind in kinds}
    for each in configs.values():
        projections(each)  # refuses settings that the kind can't have
    if config.train.micro_batch_size == "auto":
        config, configs = _with_micro_batch(target, config, configs)
    _check_room(target, configs)
    train, batches = config.train, list(random_batches(config))
    predictions = sum(batch.predictions for batch in batches)

    def step(engine: Engine) -> None:
        engine.step(batches, predictions, _LR).wait()

    def start(config: Config) -> Engine:
        engine: Engine = target.module.create(config, target.device)
        engine.load(random_parameters(config))
        step(engine)  # allocates the moments
        step(engine)
        return engine

    counts = {kind: budget(each, target.backend, target.device) for kind, each in configs.items()}
    engines, peaks, saved = {}, {}, {}
    for kind in sorted(kinds, key=lambda kind: counts[kind].memory.total):  # MLX's cache limit is the last one's
        log(f"model: two steps of {kind}")
        engines[kind], peaks[kind] = target.bench.peak_memory(target.device, partial(start, configs[kind]))
        saved[kind] = target.bench.saved_bytes(engines[kind], batches[0])
    log(f"model: {counted(rounds, 'round')} of {', '.join(kinds)}")
    times = time_interleaved({kind: partial(step, engines[kind]) for kind in kinds}, rounds)
    results = {}
    for kind in kinds:
        timing, count = summarize(times, kind), counts[kind]
        rate = predictions / timing["seconds"]["median"]
        at_peak = tokens_at_peak(configs[kind], target.device, machine.device_name, 1)
        results[kind] = {
            **timing,
            "parameters": count.parameters,
            "flops_per_token": count.flops_per_token,
            "tokens_per_second": rate,
            "mfu": rate / at_peak if at_peak else None,
            "peak_memory_bytes": peaks[kind],
            "planned_memory_bytes": count.memory.total,
            "saved_bytes": saved[kind],
        }
    return {
        "batch_size": train.batch_size,
        "micro_batch_size": train.micro_batch,
        "seq_len": config.data.seq_len,
        "vocab_size": config.model.vocab_size,
        "checkpoint_activations": train.checkpoint_activations,
        "rounds": rounds,
        "peak_flops": peak_flops(machine.device_name, train.product_dtype, target.device),
        "peak_memory_is": machine.memory,
        "results": results,
    }


def _with_micro_batch(
    target: Target, config: Config, configs: Mapping[str, Config]
) -> tuple[Config, dict[str, Config]]:
    """Return configurations with the largest micro-batch with which the device holds all models at once; or 1."""
    room, batch = target.module.capacity(target.device), config.train.batch_size
    sizes = (size for size in range(batch, 1, -1) if batch % size == 0)
    size = next((size for size in sizes if _held_at_once(target, configs, size)[0] <= room), 1)
    at_once = {kind: each.replace("train", micro_batch_size=size) for kind, each in configs.items()}
    return config.replace("train", micro_batch_size=size), at_once


def _held_at_once(target: Target, configs: Mapping[str, Config], micro_batch: int) -> tuple[int, int]:
    """Return the bytes of all models, one of which computes, and how many of them are its activations."""
    needs = [budget(config, target.backend, target.device, micro_batch).memory for config in configs.values()]
    most = max(need.activations for need in needs)
    return sum(need.total - need.activations for need in needs) + most, most


def _check_room(target: Target, configs: Mapping[str, Config]) -> None:
    """Refuse models that the device can't hold at once, as interleaved rounds require."""
    room = target.module.capacity(target.device)
    for config in configs.values():
        check_room(config, target.backend, target.device, room)
    total, most = _held_at_once(target, configs, config.train.micro_batch)
    if total > room:
        raise ConfigError(
            f"--kinds {','.join(configs)}: held at once, they need about {sized(total)}, and {target.device} "
            f"has {sized(room)}; expected them to fit; name fewer kinds, "
            f"or a smaller --batch (its activations are {sized(most)} of that)"
        )


def random_parameters(config: Config) -> Iterator[tuple[str, np.ndarray]]:
    """Yield random parameters: decompositions would take minutes and not affect the timing."""
    random = np.random.default_rng(0)
    tensors = {
        f"{each.name}.{suffix}": tensor for each in projections(config) for suffix, tensor in each.tensors().items()
    }
    for name, row in parameter_table(config).items():
        if name in tensors or len(row.shape) > 1:
            yield name, _values(random, row.shape, row.below, row.bits)
        else:
            yield name, np.ones(row.shape, np.float32)  # a norm


def _values(random: np.random.Generator, shape: tuple[int, ...], below: int, bits: int = 0) -> np.ndarray:
    """Return normal values; with `bits`, words of any; with `below`, sorted indices less than it.

    The indices are one in each of as many equal intervals.
    """
    if below:
        edges = np.arange(shape[0] + 1) * below // shape[0]
        return random.integers(edges[:-1], edges[1:]).astype(np.int32)
    if bits:
        return random.integers(-(2**31), 2**31, shape).astype(np.int32)
    values = random.standard_normal(shape, np.float32)
    values *= _STD
    return values


def random_batches(config: Config) -> Iterator[Batch]:
    """Yield one step's micro-batches of random tokens."""
    train, entries = config.train, config.model.vocab_size
    tokens = np.random.default_rng(0).integers(0, entries, (train.batch_size, config.data.seq_len + 1), np.int32)
    for start in range(0, train.batch_size, train.micro_batch):
        yield Batch(tokens[start : start + train.micro_batch])
