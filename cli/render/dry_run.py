"""The answer of `lost train --dry-run`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lost.training.begin.dry_run import DryRun
    from lost.training.begin.ready import Ready


def answer_dry_run(result: "DryRun", run: "Ready", as_json: bool) -> None:
    """Print how training would start."""
    from lost.cli.render.output import answer, count
    from lost.data.mixture import Mixture
    from lost.distributed.group import local_batch_size
    from lost.model.adapted import dense_twin
    from lost.planning.budget import budget
    from lost.utils.wording import counted, sized

    config, folder, dataset = run.config, run.folder, run.dataset
    at_once = local_batch_size(config, run.workers.world_size)[1]
    weights = run.source.path if run.source else None
    parameters, dense = budget(config).parameters, budget(dense_twin(config)).parameters
    step, disk = result.start.progress.step if result.start else run.first_step, result.disk
    tokens = result.steps * config.tokens_per_step
    value: dict[str, Any] = {
        "run": str(folder),
        "backend": run.backend,
        "devices": result.devices,
        "workers": run.workers.world_size,
        "parameters": parameters,
        "micro_batch_size": at_once,
        "memory_bytes": {"needed": result.memory.total, "there": result.room},
        "data": {"path": str(dataset.path), "tokens": result.tokens, "epochs": max(result.epochs)},
        "resumes": result.start is not None,
        "step": step,
        "removes": [str(path) for path in result.removed],
        "disk_bytes": {"needed": disk.needed, "free": disk.free, "checkpoints": disk.checkpoints},
        "steps_to_go": result.steps,
        "tokens_to_go": tokens,
    }
    if weights:
        value["weights"] = str(weights)
    taken = f"{result.epochs[0]:,.2f} epochs"
    if isinstance(dataset, Mixture):
        parts = zip(dataset.sets, dataset.shares(), result.epochs, strict=True)
        mixture = [{"path": str(each.path), "share": share, "epochs": epochs} for each, share, epochs in parts]
        value["data"] |= {"mixture": mixture}
        taken = ", ".join(f"{each['epochs']:,.2f} epochs of {each['path']} ({each['share']:.2%})" for each in mixture)
    begins = "resumes at" if result.start else "starts from"
    first = f" {'of' if run.branches else 'with the weights of'} {weights}" if weights else ""
    removes = f", {counted(len(result.removed), 'checkpoint')} removed" if result.removed else ""
    more = counted(disk.checkpoints, "more checkpoint")
    sequences = f"{counted(at_once, 'sequence')} at once"
    each = " each" if run.workers.world_size > 1 else ""
    memory = sized(result.memory.total)
    rows = [
        ["backend", run.backend],
        ["workers", f"{run.workers.world_size} ({', '.join(result.devices)})"],
        ["parameters", f"{count(parameters)} (dense: {count(dense)})"],
        ["memory", f"{memory} needed{each} for arrays, {sized(result.room)} available; {sequences}"],
        ["data", f"{dataset.path}: {count(result.tokens)} tokens, intact; the run takes {taken}"],
        ["run folder", f"{folder}: {begins} step {step}{first}{removes}"],
        ["disk", f"{sized(disk.needed)} needed for {more}, {sized(disk.free)} free"],
        ["to go", f"{counted(result.steps, 'step')}, {count(tokens)} tokens"],
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name.ljust(width)}  {text}" for name, text in rows]
    answer(as_json, value, [*lines, "nothing was written; without --dry-run, training starts"])
