"""What `lost train --dry-run` answers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lost.training.dry_run import DryRun
    from lost.training.start import Ready


def answer_dry_run(found: "DryRun", run: "Ready", as_json: bool) -> None:
    """Print what a start would find."""
    from lost.cli.render.output import answer, count, size
    from lost.data.mixture import Mixture
    from lost.planning.budget import budget, dense_twin

    config, folder, dataset = run.config, run.folder, run.dataset
    weights = run.source.path if run.source else None
    parameters, dense = budget(config).parameters, budget(dense_twin(config)).parameters
    step, disk = found.start.progress.step if found.start else 0, found.disk
    tokens = found.steps * config.train.batch_size * config.data.seq_len
    value: dict[str, Any] = {
        "run": str(folder),
        "backend": run.backend,
        "devices": found.devices,
        "workers": run.workers.world_size,
        "parameters": parameters,
        "memory_bytes": {"needed": found.memory.total, "there": found.room},
        "data": {"path": str(dataset.path), "tokens": found.tokens, "epochs": max(found.epochs)},
        "resumes": found.start is not None,
        "step": step,
        "removes": [str(path) for path in found.removed],
        "disk_bytes": {"needed": disk.needed, "free": disk.free, "checkpoints": disk.checkpoints},
        "steps_to_go": found.steps,
        "tokens_to_go": tokens,
    }
    if weights:
        value["weights"] = str(weights)
    taken = f"{found.epochs[0]:.2f} epochs"
    if isinstance(dataset, Mixture):
        parts = zip(dataset.sets, dataset.shares(), found.epochs, strict=True)
        mixture = [{"path": str(each.path), "share": share, "epochs": epochs} for each, share, epochs in parts]
        value["data"] |= {"mixture": mixture}
        taken = ", ".join(f"{each['epochs']:.2f} epochs of {each['path']} ({each['share']:.2%})" for each in mixture)
    begins = "resumes at" if found.start else "starts from"
    first = f" with the weights of {weights}" if weights else ""
    removes = f", {len(found.removed)} checkpoints removed" if found.removed else ""
    each = " each" if run.workers.world_size > 1 else ""
    rows = [
        ["backend", run.backend],
        ["workers", f"{run.workers.world_size} ({', '.join(found.devices)})"],
        ["parameters", f"{count(parameters)} (dense: {count(dense)})"],
        ["memory", f"{size(found.memory.total)} needed{each}, {size(found.room)} there"],
        ["data", f"{dataset.path}: {count(found.tokens)} tokens, whole; the run takes {taken}"],
        ["run folder", f"{folder}: {begins} step {step}{first}{removes}"],
        ["disk", f"{size(disk.needed)} needed for {disk.checkpoints} more checkpoints, {size(disk.free)} free"],
        ["to go", f"{found.steps} steps, {count(tokens)} tokens"],
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name.ljust(width)}  {text}" for name, text in rows]
    answer(as_json, value, [*lines, "nothing was written; without --dry-run this starts"])
