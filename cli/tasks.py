"""`lost eval --tasks`: the tasks of lm-evaluation-harness."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lost.engine import Engine
    from lost.evaluation.lm_eval import Tasks
    from lost.evaluation.lm_eval_model import LmEvalModel
    from lost.interop.source import Source


def load_tasks(names: str, include_path: Path | None, num_fewshot: int | None, context: int, backend: str) -> "Tasks":
    """Find tasks, load their data, and check what can be known before the first is asked.

    Args:
        names: separated by commas.
        include_path: folder with tasks of the user's own.
        num_fewshot: examples before each question; None: each task's default.
        context: most tokens read at once.
        backend: that will run the model.

    Raises:
        UserError: one can't be found, loaded, or asked of a model that reads so much.
    """
    from lost.cli.render.output import note
    from lost.engine import backend_module, resolve_backend
    from lost.errors import UserError
    from lost.evaluation.lm_eval import Tasks

    separate = [name.strip() for name in names.split(",") if name.strip()]
    if not separate:
        raise UserError(f"--tasks {names!r} names no task; expected names separated by commas")
    network = "" if include_path else ", over the network what isn't here yet"
    note(f"loading {', '.join(separate)}{network} ...")
    tasks = Tasks(separate, include_path, num_fewshot)
    if tasks.without_examples:
        note(f"{', '.join(tasks.without_examples)}: always run without examples; --num-fewshot is ignored")
    if tasks.among_questions:
        note(
            f"{', '.join(tasks.among_questions)}: examples are other questions of the test split; there is no split "
            "of their own (fewshot_split, training_split or validation_split)"
        )
    if tasks.check_generation(context):
        backend_module(resolve_backend(backend)).check_generation()
    return tasks


def run_tasks(
    source: "Source", engine: "Engine", tasks: "Tasks", context: int, batch_size: int | None, limit: int | None
) -> tuple[dict[str, Any], list[str]]:
    """Run tasks, and return the answer as JSON and as lines.

    Args:
        source: of the engine's weights.
        engine: runs the model.
        tasks: to run.
        context: most tokens read at once.
        batch_size: requests of full length at once; None: as many tokens as in training.
        limit: documents of each task; None: all.
    """
    from lost.cli.render.output import note, table
    from lost.cli.render.progress import EvaluationScreen
    from lost.evaluation.lm_eval_model import LmEvalModel
    from lost.interop.special_tokens import read_after

    trained = source.config.data.seq_len
    at_once = batch_size * context if batch_size else source.config.train.micro_batch * trained
    screen = EvaluationScreen()
    tokenizer = source.tokenizer()
    begin = read_after(tokenizer, source.progress)
    model = LmEvalModel(engine, tokenizer, context, at_once, screen, begin, source.ends)
    with screen.live():
        outcome = tasks.run(model, limit)
    for remark in _remarks(model, source.seq_len):
        note(remark)
    head = ("task", "version", "shots", "documents", "metric", "value", "stderr")
    about = f"{source.path}, up to {context} tokens at once, lm-eval {outcome['lm_eval']}"
    return {**outcome, "checkpoint": str(source.path), "context": context}, [about, *table(head, _rows(outcome))]


def _remarks(model: "LmEvalModel", trained: int | None) -> Iterator[str]:
    if model.num_truncated:
        yield f"{model.num_truncated} requests were longer than {model.context} tokens and were truncated on the left"
    if trained and model.longest > trained:
        yield (
            f"the model read up to {model.longest} tokens at once, and was trained on {trained}: beyond that it may do "
            f"worse; --context {trained} stays within"
        )


def _rows(outcome: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield one row a metric."""
    for name, metric, value, error in metrics(outcome["results"]):
        about = [outcome["versions"].get(name), outcome["n_shot"].get(name), outcome["documents"].get(name)]
        yield name, *("" if each is None else each for each in about), metric, value, error


def metrics(results: dict[str, dict[str, float | None]]) -> Iterator[tuple[str, str, str, str]]:
    """Yield each metric of each task: the task, the metric, its value, its standard error."""
    for name, values in results.items():
        for metric, value in values.items():
            base, _, filtered = metric.partition(",")
            if base.endswith("_stderr"):
                continue
            error = values.get(f"{base}_stderr" + (f",{filtered}" if filtered else ""))
            yield name, metric, _shown(value), _shown(error)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
