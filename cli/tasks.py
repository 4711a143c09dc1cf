"""`lost eval --tasks`: the tasks of lm-evaluation-harness."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.engine import Engine
    from lost.evaluation.lm_eval import Tasks
    from lost.evaluation.lm_eval_model import HarnessModel


def load_tasks(names: str, include_path: Path | None, num_fewshot: int | None) -> "Tasks":
    """Find tasks by names, separated by commas, and load their data."""
    from lost.cli.render.output import note
    from lost.errors import UserError
    from lost.evaluation.lm_eval import Tasks

    separate = [name.strip() for name in names.split(",") if name.strip()]
    if not separate:
        raise UserError(f"--tasks {names!r} names no task; expected names, separated by commas")
    note(f"loading {', '.join(separate)} ...")
    tasks = Tasks(separate, include_path, num_fewshot)
    if tasks.without_examples:
        note(f"{', '.join(tasks.without_examples)}: always asked without examples; --num-fewshot is left out")
    return tasks


def ask_tasks(
    checkpoint: "Checkpoint", engine: "Engine", tasks: "Tasks", context: int, batch_size: int | None, limit: int | None
) -> tuple[dict[str, Any], list[str]]:
    """Return what a model answers, for a program and for a person.

    Args:
        checkpoint: whose weights the engine holds.
        engine: is asked.
        tasks: what it is asked.
        context: tokens read at once at most.
        batch_size: questions of full length at once; None: as many tokens as in training.
        limit: documents of each task; None: all.
    """
    from lost.cli.render.output import note, table
    from lost.cli.render.progress import EvaluationScreen
    from lost.evaluation.lm_eval_model import HarnessModel

    trained = checkpoint.config.data.seq_len
    at_once = batch_size * context if batch_size else checkpoint.config.train.micro_batch * trained
    screen = EvaluationScreen()
    model = HarnessModel(engine, checkpoint.tokenizer(), context, at_once, screen)
    with screen.live():
        outcome = tasks.ask(model, limit)
    for remark in _remarks(model, trained):
        note(remark)
    head = ("task", "version", "shots", "documents", "metric", "value", "stderr")
    about = f"{checkpoint.path}, up to {context} tokens at once, lm-eval {outcome['lm_eval']}"
    return {**outcome, "checkpoint": str(checkpoint.path), "context": context}, [about, *table(head, _rows(outcome))]


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
