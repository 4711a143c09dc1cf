"""What `lost bench` measures: kinds of projection beside each other, in turns, so that a busy moment hits all alike.

One layer, forward and backward, and one whole optimizer step of a model that differs in `projection.kind` alone. Here
it is decided what runs, on which values; `Bench` is what a backend adds.
"""

import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from lost import __version__
from lost.bench.options import LayerShape, at_least
from lost.bench.timing import interleave, summary
from lost.config import Config, ProjectionSettings, TrainConfig
from lost.data.batch import Batch
from lost.engine import Engine, backend_module
from lost.errors import ConfigError, UserError
from lost.model.parameters import parameter_table, projections
from lost.planning.budget import budget, check_room
from lost.planning.peak_flops import peak_flops
from lost.projections import Projection, projection

T = TypeVar("T")
Tell = Callable[[str], None]

LAYER_ROUNDS, MODEL_ROUNDS = 25, 5
_SAMPLE = 0.01  # seconds a timed sample of a layer lasts at least, for the clock and the launches not to be all of it
_STD = 0.02  # of every random weight: what they are changes no time, as long as they are ordinary numbers
_LR = 1e-5


@dataclass(frozen=True)
class Machine:
    """What computes.

    Attributes:
        version: of the framework.
        device_name: the maker's.
        threads: on a CPU, where the framework tells.
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
        run: does it so many times, then waits for the device.
        saved_bytes: what is kept for the backward pass, parameters left out; None where it can't be told.
    """

    run: Callable[[int], None]
    saved_bytes: int | None


class Bench(Protocol):
    """What a backend adds, as its module `bench`."""

    def machine(self, device: str) -> Machine:
        """Describe a device."""

    def layer(
        self, projection: Projection, values: Mapping[str, np.ndarray], tokens: int, train: TrainConfig, device: str
    ) -> Pass:
        """Make a layer with these values, and `tokens` random rows of input with the gradients of its output.

        Its backward pass has the gradients of the input and of every trained parameter.
        """

    def peak_memory(self, device: str, call: Callable[[], T]) -> tuple[T, int | None]:
        """Return what a call returns, and the most bytes held during it less those held before, if that is known."""

    def saved_bytes(self, engine: Engine, batch: Batch) -> int | None:
        """Return the bytes that a model's forward pass leaves for the backward pass, if that is known."""


@dataclass(frozen=True)
class Place:
    """Where to measure: a backend's name, its module, a device as it names it."""

    backend: str
    device: str

    @property
    def module(self) -> Any:
        """The backend."""
        return backend_module(self.backend)

    @property
    def bench(self) -> Bench:
        """What the backend adds."""
        return self.module.bench


def measure(
    place: Place,
    config: Config,
    kinds: Sequence[str],
    layer: LayerShape | None,
    model: str | None,
    rounds: int | None = None,
    tell: Tell = lambda text: None,
) -> dict[str, Any]:
    """Return what `lost bench --json` answers.

    Args:
        place: where to measure.
        config: the model, and of the layer all that its shape leaves open.
        kinds: what to compare.
        layer: None: leave this part out.
        model: the configuration's name; None: leave this part out.
        rounds: timed ones; None: as many as usually suffice.
        tell: is told what is being done.

    Raises:
        UserError: a value that can't be, or what doesn't fit the device.
    """
    at_least("--rounds", rounds)
    if place.module.join().world_size > 1:
        raise UserError("several processes were started: lost bench measures in one; start it without the launcher")
    machine = place.bench.machine(place.device)
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    if place.device == "cpu" and load > cpus / 2:
        tell(
            f"this machine is busy (load {load:.1f}, {cpus} CPUs): threads wait for each other, times grow and scatter"
        )
    value: dict[str, Any] = {
        "versions": {"lost": __version__, place.backend: machine.version, "python": platform.python_version()},
        "backend": place.backend,
        "device": place.device,
        "device_name": machine.device_name,
        "threads": machine.threads,
        "load_average": load,
        "dtype": config.train.dtype,
        "param_dtype": config.train.param_dtype,
        "layer": None,
        "model": None,
    }
    if layer is not None:
        value["layer"] = _layer(place, config, kinds, layer, rounds or LAYER_ROUNDS, tell)
    if model is not None:
        value["model"] = {"config": model, **_model(place, config, kinds, rounds or MODEL_ROUNDS, machine, tell)}
    return value


def _layer(
    place: Place, config: Config, kinds: Sequence[str], shape: LayerShape, rounds: int, tell: Tell
) -> dict[str, Any]:
    tell(f"layer: {rounds} rounds of {', '.join(kinds)}")
    built, passes = {}, {}
    for kind in kinds:
        chosen = {"kind": kind, "rank": shape.rank, "density": shape.density}
        raw = config.projection.model_dump(include=set(ProjectionSettings.model_fields)) | chosen
        part = projection("layer", shape.in_features, shape.out_features, ProjectionSettings.model_validate(raw))
        random = np.random.default_rng(0)
        values = {suffix: _values(random, each.shape, each.below) for suffix, each in part.tensors().items()}
        built[kind] = part
        passes[kind] = place.bench.layer(part, values, shape.tokens, config.train, place.device)
    once = interleave({kind: partial(each.run, 1) for kind, each in passes.items()}, rounds=2, warm_up=2)
    calls = math.ceil(_SAMPLE / min(min(times) for times in once.values()))
    times = interleave({kind: partial(each.run, calls) for kind, each in passes.items()}, rounds)
    results = {}
    for kind, part in built.items():
        found = summary(times, kind, calls)
        flops = 6 * part.multiply_adds() * shape.tokens
        results[kind] = {
            **found,
            "parameters": part.parameters(),
            "flops": flops,
            "flops_per_second": flops / found["seconds"]["median"],
            "saved_bytes": passes[kind].saved_bytes,
        }
    return {**asdict(shape), "rounds": rounds, "calls_a_sample": calls, "results": results}


def _model(
    place: Place, config: Config, kinds: Sequence[str], rounds: int, machine: Machine, tell: Tell
) -> dict[str, Any]:
    configs = {kind: config.replace("projection", kind=kind) for kind in kinds}
    for each in configs.values():
        projections(each)  # which refuses what a kind can't have
    _check_room(place, configs)
    train, batches = config.train, list(random_batches(config))
    predictions = sum(batch.predictions for batch in batches)
    peak_rate = peak_flops(machine.device_name, train.dtype) if place.device.startswith("cuda") else None

    def step(engine: Engine) -> None:
        engine.step(batches, predictions, _LR).wait()

    def start(config: Config) -> Engine:
        engine: Engine = place.module.create(config, place.device)
        engine.load(random_parameters(config))
        step(engine)  # makes the moments
        step(engine)
        return engine

    counts = {kind: budget(each, place.backend, place.device) for kind, each in configs.items()}
    engines, peaks, saved = {}, {}, {}
    for kind in sorted(kinds, key=lambda kind: counts[kind].memory.total):  # MLX keeps as much as the last one needs
        tell(f"model: two steps of {kind}")
        engines[kind], peaks[kind] = place.bench.peak_memory(place.device, partial(start, configs[kind]))
        saved[kind] = place.bench.saved_bytes(engines[kind], batches[0])
    tell(f"model: {rounds} rounds of {', '.join(kinds)}")
    times = interleave({kind: partial(step, engines[kind]) for kind in kinds}, rounds)
    results = {}
    for kind in kinds:
        found, count = summary(times, kind), counts[kind]
        rate = predictions / found["seconds"]["median"]
        results[kind] = {
            **found,
            "parameters": count.parameters,
            "flops_per_token": count.flops_per_token,
            "tokens_per_second": rate,
            "mfu": rate * count.flops_per_token / peak_rate if peak_rate else None,
            "peak_memory_bytes": peaks[kind],
            "saved_bytes": saved[kind],
        }
    return {
        "batch_size": train.batch_size,
        "micro_batch_size": train.micro_batch,
        "seq_len": config.data.seq_len,
        "vocab_size": config.model.vocab_size,
        "checkpoint_activations": train.checkpoint_activations,
        "rounds": rounds,
        "peak_flops": peak_rate,
        "peak_memory_is": machine.memory,
        "results": results,
    }


def _check_room(place: Place, configs: Mapping[str, Config]) -> None:
    """Refuse models that the device can't hold all at once, as taking turns needs."""
    room = place.module.capacity(place.device)
    for config in configs.values():
        check_room(config, place.backend, place.device, room)
    needs = [budget(config, place.backend, place.device).memory for config in configs.values()]
    most = max(need.activations for need in needs)
    total = sum(need.total - need.activations for need in needs) + most
    if total > room:
        raise ConfigError(
            f"--kinds {','.join(configs)}: held at once, they need about {total / 2**30:.2f} GiB, and {place.device} "
            f"has {room / 2**30:.2f} GiB; expected to fit; name fewer kinds, "
            f"or a smaller --batch (its activations are {most / 2**30:.2f} GiB of that)"
        )


def random_parameters(config: Config) -> Iterator[tuple[str, np.ndarray]]:
    """Yield random parameters: a decomposition would take minutes and change no time."""
    random = np.random.default_rng(0)
    tensors = {
        f"{each.name}.{suffix}": tensor for each in projections(config) for suffix, tensor in each.tensors().items()
    }
    for name, row in parameter_table(config).items():
        if name in tensors or len(row.shape) > 1:
            yield name, _values(random, row.shape, tensors[name].below if name in tensors else 0)
        else:
            yield name, np.ones(row.shape, np.float32)  # a norm


def _values(random: np.random.Generator, shape: tuple[int, ...], below: int) -> np.ndarray:
    """Return normal values, or sorted places from 0 to less than `below`: one in each of as many equal stretches."""
    if below:
        edges = np.arange(shape[0] + 1) * below // shape[0]
        return random.integers(edges[:-1], edges[1:]).astype(np.int32)
    values = random.standard_normal(shape, np.float32)
    values *= _STD
    return values


def random_batches(config: Config) -> Iterator[Batch]:
    """Yield one step's micro-batches of random tokens."""
    train, entries = config.train, config.model.vocab_size
    tokens = np.random.default_rng(0).integers(0, entries, (train.batch_size, config.data.seq_len + 1), np.int32)
    for start in range(0, train.batch_size, train.micro_batch):
        yield Batch(tokens[start : start + train.micro_batch])
