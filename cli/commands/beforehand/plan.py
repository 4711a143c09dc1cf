"""`lost plan`: the cost of a run before it starts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lost.cli.commands.beforehand.suggest import answer_suggestion
from lost.cli.options import AsJson, Assignments, Backend, ConfigName, Device, Overrides, local_path, path_option

_H100_GIB = 72  # what a run may take of an H100's 80 GB
_LINK = 50  # GB/s, 400 Gb/s


def plan(
    config: ConfigName,
    assignments: Assignments = [],
    data: Annotated[
        Path | None, path_option("Prepared set to train on; a vocabulary that CONFIG leaves open is taken from it.")
    ] = None,
    overrides: Overrides = [],
    backend: Backend = "auto",
    device: Device = "auto",
    memory_gib: Annotated[
        float | None,
        typer.Option(help="Plan for a device with this much memory, which needn't be here.", min=0, max=1e6),
    ] = None,
    world: Annotated[
        int | None,
        typer.Option(help="Plan for so many CUDA cards, on which PyTorch shards the run.", min=1, max=65536),
    ] = None,
    link: Annotated[
        float | None,
        typer.Option(help="With --world: GB/s that a card sends; default 50 (400 Gb/s).", min=1e-3, max=1e6),
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(help="CUDA: the card's peak in TFLOP/s; default: an H100's.", min=1e-3, max=1e6)
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="CUDA: the card's memory in GB/s; default: an H100's.", min=1e-3, max=1e6)
    ] = None,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Suggest a run like CONFIG instead, of the size that suits it best.")
    ] = False,
    hours: Annotated[
        float | None, typer.Option(help="With --suggest: what the run may take here.", min=1e-4, max=1e6)
    ] = None,
    tokens: Annotated[
        float | None, typer.Option(help="With --suggest: what the run is to read, such as 2e9.", min=1e3, max=1e15)
    ] = None,
    from_runs: Annotated[
        Path | None,
        typer.Option(
            "--from",
            parser=local_path,
            metavar="RUN|RUNS",
            help="With --suggest: a run whose rate is tuned, or a folder of such.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the cost of a run.

    Parameters, FLOPs per token and memory, compared with the dense model's; for CUDA, a roofline of tokens a second.
    With --world, what each of many cards holds, computes and sends. Fails if the run doesn't fit the device;
    with --json the estimate stands beside the error.

    With --suggest, a run is suggested: its size, tokens, batch, rate and steps, and the command that trains it. Its
    speed is measured here, for some seconds. Rate and batch follow from the runs of --from, and the size if a law fits
    them.
    """
    elsewhere = {
        "--memory-gib": memory_gib, "--world": world, "--link": link, "--tflops": tflops, "--bandwidth": bandwidth
    }  # fmt: skip
    asked_for = {"--hours": hours, "--tokens": tokens, "--from": from_runs}
    _one_of_both(suggest, asked_for, elsewhere)
    if suggest:
        answer_suggestion(config, data, [*overrides, *assignments], backend, device, hours, tokens, from_runs, as_json)
        return
    from lost.cli.render.output import answer, count, note, table
    from lost.cli.render.plan import cluster_lines, rates_lines, roofline_line
    from lost.errors import ConfigError, UserError
    from lost.model.load import load_config
    from lost.optim.rates import groups
    from lost.planning import cluster, roofline
    from lost.planning.alignment import unaligned
    from lost.planning.budget import report
    from lost.planning.micro_batch import with_micro_batch
    from lost.planning.room import beginning, check_room, fits_whole
    from lost.planning.vocabulary import with_vocabulary
    from lost.training.teacher import teacher_bytes
    from lost.utils.wording import sized

    asked, remark = with_vocabulary(load_config(config, [*overrides, *assignments]), data)
    if world is not None:
        name, device_name = _elsewhere("torch" if backend == "auto" else backend, device)
        room = int((_H100_GIB if memory_gib is None else memory_gib) * 2**30)
    elif memory_gib is not None:
        name, device_name = _elsewhere(backend, device)
        room = int(memory_gib * 2**30)
    else:
        name, device_name, room = _target(backend, device)
    on_cuda, cards = device_name.startswith("cuda"), world or 1
    if world is not None and not on_cuda:
        raise UserError(
            f"--world {world} with {name} on {device_name}: expected PyTorch on CUDA; leave one of them out"
        )
    for option, given in (
        ("--link", link if world is None else None),
        ("--tflops", tflops),
        ("--bandwidth", bandwidth),
    ):
        if given is not None and (option == "--link" or not on_cuda):
            expected = "--world" if option == "--link" else "a CUDA device, which --memory-gib may stand for"
            raise UserError(f"{option} {given:g} was given without {expected}, and would do nothing; leave it out")
    if cards > 1:
        cluster.check_sharded(asked, cards)
    teacher = teacher_bytes(asked)
    beside = room - teacher
    settings = with_micro_batch(asked, name, device_name, beside, cards)
    for text in filter(None, (remark, unaligned(settings, device_name))):
        note(text)
    whole_steps = cards > 1 and fits_whole(settings, device_name, room, cards)
    value = report(settings, name, device_name, cards, whole_steps)
    own, dense = value["memory_bytes"], value["dense"]["memory_bytes"]
    flops = [value["flops_per_token"], value["dense"]["flops_per_token"]]
    totals = [value["parameters"]["total"], value["parameters"]["dense_equivalent"]]
    trained = value["parameters"]["trained"]
    rows = [
        ["parameters", *map(count, totals), f"{totals[0] / totals[1]:.2f}"],
        *([["trained", count(trained), count(totals[1]), f"{trained / totals[1]:.4f}"]] if trained < totals[0] else []),
        ["FLOPs per token", *map(count, flops), f"{flops[0] / flops[1]:.2f}"],
        *([key, sized(own[key]), sized(dense[key]), f"{own[key] / dense[key]:.2f}"] for key in own),
        *([["the teacher, beside it", sized(teacher), sized(teacher), "1.00"]] if teacher else []),
    ]
    parts = value["parameters"]
    frozen = f" (frozen ones in {settings.train.frozen_dtype})" if settings.train.frozen_dtype else ""
    chosen = f" (train.micro_batch_size = auto, on {device_name})" if settings != asked else ""
    lines = [
        *table(
            ["", "as set" if settings.projection.kind == "dense" else settings.projection.kind, "dense", "ratio"], rows
        ),
        "",
        f"{count(parts['projections'])} of the parameters are in projections, "
        f"{count(parts['embeddings'])} in embedding and head",
        f"memory: {settings.train.micro_batch} x {settings.data.seq_len} tokens at once{chosen}, weights in "
        f"{settings.train.param_dtype}{frozen}, computed in {settings.train.compute_dtype}",
    ]
    at_first = beginning(settings, name, device_name, cards)
    if at_first:
        lines.append(f"where it begins: {sized(at_first)}, as it measures the base model, held beside its own weights")
    value["rates"] = groups.report(settings)
    if settings.optimizer.base_width:
        lines += rates_lines(value["rates"], settings.optimizer.base_width)
    if on_cuda:
        card = roofline.card_for(settings, tflops, bandwidth)
        alone = with_micro_batch(asked.replace("train", replicas=1), name, device_name, beside)
        value["roofline"] = roofline.report(alone, card)
        lines += roofline_line(value["roofline"], settings.projection.kind)
        if world is not None:
            value["cluster"] = cluster.report(asked, world, (link or _LINK) * 1e9, card, beside)
            lines += cluster_lines(value["cluster"], settings.projection.kind)
    most = max(own["total"] + teacher, at_first)
    value |= {"teacher_bytes": teacher, "beginning_bytes": at_first, "device_bytes": room, "fits": most <= room}
    if value["fits"]:
        lines.append(f"fits: {sized(most)} of {sized(room)} on {'each card' if cards > 1 else device_name}")
    try:
        check_room(settings, name, device_name, room, cards, teacher, begins=True)
    except ConfigError as error:
        if as_json:
            error.known = value  # printed with it, as one object
        else:
            answer(False, value, lines)
        raise
    answer(as_json, value, lines)


def _elsewhere(backend: str, device: str) -> tuple[str, str]:
    """Return the backend and device that are meant by names, wherever they are; auto: an accelerator.

    Raises:
        UserError: the backend has no such device.
    """
    from lost.engine import resolve_backend
    from lost.errors import UserError
    from lost.planning.memory.logits import devices_of

    name = resolve_backend(backend)
    kinds = devices_of(name)
    if device == "auto":
        return name, kinds[-1]
    if device.partition(":")[0] not in kinds:
        raise UserError(f"--device {device} with --memory-gib: {name} has {', '.join(kinds)}; name one of these")
    return name, device


def _target(backend: str, device: str) -> tuple[str, str, int]:
    """Return the backend and device that training here would use, and the device's memory in bytes.

    A framework is asked, and so imported, only about devices that it alone knows.
    """
    from lost.engine import BACKENDS, backend_module, resolve_backend
    from lost.errors import BackendError
    from lost.utils.machine import may_have_accelerator, memory_bytes

    name = resolve_backend(backend)
    if name in BACKENDS and (device == "cpu" or (device == "auto" and not may_have_accelerator())):
        return name, "cpu", memory_bytes()
    try:
        module = backend_module(name)
    except BackendError:
        if (backend, device) != ("auto", "auto"):
            raise
        return "torch", "cpu", memory_bytes()
    resolved = module.resolve(device)
    return name, resolved, module.capacity(resolved)


def _one_of_both(suggest: bool, asked_for: dict[str, Any], elsewhere: dict[str, Any]) -> None:
    """Refuse options that would do nothing.

    Raises:
        UserError: some were given.
    """
    from lost.errors import UserError

    given = [name for name, value in (elsewhere if suggest else asked_for).items() if value is not None]
    if given and suggest:
        raise UserError(f"{given[0]} with --suggest, whose speed is measured here: leave it out")
    if given:
        raise UserError(f"{given[0]} was given without --suggest, and would do nothing; add --suggest, or leave it out")
    if asked_for["--hours"] and asked_for["--tokens"]:
        raise UserError("--hours and --tokens: how long a run is follows from one of them; leave out the other")
