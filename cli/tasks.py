"""`lost eval --tasks`: the tasks of lm-evaluation-harness."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lost.harness_model import HarnessModel


def ask_tasks(
    path: Path,
    tasks: str,
    include_path: Path | None,
    limit: int | None,
    num_fewshot: int | None,
    context: int | None,
    batch_size: int | None,
    backend: str,
    device: str,
    as_json: bool,
) -> None:
    """Run tasks on a checkpoint and print what comes out; the arguments are the command's options."""
    from lost.cli.load import context_of, load_model
    from lost.cli.output import answer, note, table
    from lost.cli.progress import EvaluationScreen
    from lost.errors import UserError
    from lost.harness import Tasks
    from lost.harness_model import HarnessModel

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise UserError(f"--tasks {tasks!r} names no task; expected names, separated by commas")
    note(f"loading {', '.join(names)} ...")
    found = Tasks(names, include_path, num_fewshot)
    if found.fixed:
        note(f"--num-fewshot {num_fewshot} is left out for {', '.join(found.fixed)}: the task is always asked without")
    checkpoint, engine = load_model(path, backend, device)
    config = checkpoint.config
    window = context_of(config, context, config.model.max_position_embeddings)
    at_once = batch_size * window if batch_size else config.train.micro_batch * config.data.seq_len
    screen = EvaluationScreen()
    model = HarnessModel(engine, checkpoint.tokenizer(), window, at_once, screen)
    with screen.live():
        outcome = found.ask(model, limit)
    for remark in _remarks(model, config.data.seq_len):
        note(remark)
    head = ("task", "version", "shots", "documents", "metric", "value", "stderr")
    lines = [f"{checkpoint.path}, {window} tokens at once, lm-eval {outcome['lm_eval']}", *table(head, _rows(outcome))]
    answer(as_json, {**outcome, "checkpoint": str(checkpoint.path), "context": window}, lines)


def _remarks(model: "HarnessModel", trained: int) -> Iterator[str]:
    if model.cut:
        yield f"{model.cut} questions were longer than {model.context} tokens and lost their beginning"
    if model.longest > trained:
        yield (
            f"the model read up to {model.longest} tokens at once, but was trained on {trained}: expect it to be worse "
            f"there than it could be; --context {trained} keeps to what it knows"
        )


def _rows(outcome: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield one row a metric."""
    for name, metrics in outcome["results"].items():
        about = [outcome["versions"].get(name), outcome["n_shot"].get(name), outcome["documents"].get(name)]
        for metric, value in metrics.items():
            base, _, filtered = metric.partition(",")
            if base.endswith("_stderr"):
                continue
            error = metrics.get(f"{base}_stderr" + (f",{filtered}" if filtered else ""))
            yield name, *("" if each is None else each for each in about), metric, _shown(value), _shown(error)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
