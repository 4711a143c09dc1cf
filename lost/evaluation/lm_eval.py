"""Tasks of EleutherAI's lm-evaluation-harness (`lm_eval`), run on an engine.

lm_eval brings the tasks: data, prompts, few-shot examples, metrics and standard errors. Only its documented interface,
`TaskManager` and `evaluate`, is used.
"""

import difflib
import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lost.errors import DataError, LostError, UserError
from lost.evaluation.lm_eval_model import LmEvalModel, as_lm_eval_model
from lost.utils.extras import need

# Resamples for standard errors of metrics without a formula: accurate to 2 %, in seconds rather than minutes.
_RESAMPLES = 1000


class Tasks:
    """Tasks whose data is loaded.

    Args:
        names: of tasks, groups or tags, with wildcards.
        folder: of YAML files of tasks, searched besides lm_eval's own; None: only those.
        num_fewshot: examples before each question; None: each task's default.

    Attributes:
        without_examples: tasks that are always run without examples, although some were requested.

    Raises:
        MissingPackageError: lm_eval isn't installed.
        DataError: no such task or folder, or a task's data can't be loaded.
    """

    def __init__(self, names: Sequence[str], folder: Path | None, num_fewshot: int | None) -> None:
        with _silence():
            need("lm_eval", "eval", "evaluating tasks")
            manager = _manager(names, folder)
            loaded = [_load(manager, name) for name in _expanded(manager, names, folder)]
        self._tasks = {name: task for each in loaded for name, task in each["tasks"].items()}
        self._groups = {name: group for each in loaded for name, group in each["groups"].items()}
        self.without_examples = self._set_fewshot(num_fewshot)

    def _set_fewshot(self, count: int | None) -> list[str]:
        """Set the number of examples, but for tasks that say 0, which are returned: lm_eval's rule."""
        without = []
        for name, task in self._tasks.items():
            if count and task.get_config("num_fewshot") == 0:
                without.append(name)
            elif count is not None or task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=count or 0)
        return without

    def run(self, model: LmEvalModel, limit: int | None) -> dict[str, Any]:
        """Run all tasks.

        Args:
            model: to evaluate.
            limit: number of documents of each task, from the first on; None: all.

        Returns:
            `results` (task or group, to metrics and their standard errors, `<metric>_stderr`), `versions`, `n_shot`,
            `documents` (evaluated, by task), `higher_is_better`, and the version of `lm_eval`. A filter other than the
            default follows the metric's name after a comma. Values that aren't finite numbers are None.

        Raises:
            UserError: a task can't be run on this model, or fails.
        """
        try:
            with _silence():
                from lm_eval.defaults import DEFAULT_OTHER_SEED
                from lm_eval.evaluator import evaluate

                for task in self._tasks.values():  # each time: another model is asked the same
                    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
                answer = evaluate(
                    lm=as_lm_eval_model(model),
                    task_dict={"tasks": self._tasks, "groups": self._groups},
                    limit=limit,
                    bootstrap_iters=_RESAMPLES,
                    log_samples=False,
                )
        except LostError:
            raise
        except Exception as error:  # tasks are other people's YAML and Python, which may raise anything
            raise UserError(
                f"lm-eval failed on {', '.join(self._tasks)}: {_brief(error)}; expected tasks that lm-eval "
                f"{version('lm_eval')} can run; fix the task, or leave it out; --debug shows where"
            ) from error
        return {
            "results": {name: _metrics(values) for name, values in answer["results"].items()},
            "versions": answer["versions"],
            "n_shot": answer["n-shot"],
            "documents": {name: count["effective"] for name, count in answer["n-samples"].items()},
            "higher_is_better": answer["higher_is_better"],
            "lm_eval": version("lm_eval"),
        }


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what lm_eval and its libraries print: progress bars, log lines, notes on standard output."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"  # its resampling would fork with a device open, which may hang
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _manager(names: Sequence[str], folder: Path | None) -> Any:
    """Return a task manager: of the user's own tasks alone where they suffice, as reading all takes a while."""
    from lm_eval.tasks import TaskManager

    if folder is None:
        return TaskManager()
    if not folder.is_dir():
        raise DataError(f"--include-path {folder} is not a folder; expected one with YAML files of tasks")
    own = TaskManager(include_path=str(folder), include_defaults=False)
    if not own.all_tasks:
        raise DataError(
            f"--include-path {folder} holds no task{_unread(own, folder)}; expected YAML files with `task: NAME`, as "
            "docs/evaluation.md shows"
        )
    return own if set(names) <= set(own.all_subtasks) else TaskManager(include_path=str(folder))


def _expanded(manager: Any, names: Sequence[str], folder: Path | None) -> list[str]:
    """Return the names with wildcards expanded."""
    expanded: dict[str, None] = {}
    for name in names:
        matching = manager.match_tasks([name])
        if not matching:
            near = difflib.get_close_matches(name, manager.all_tasks, 5)
            raise DataError(
                f"--tasks {name}: no such task, group or tag{_unread(manager, folder) if folder else ''}; "
                + (f"did you mean {' or '.join(near)}?" if near else "`lm_eval ls tasks` lists those of lm-eval; ")
                + ("" if folder else "--include-path FOLDER adds your own")
            )
        expanded |= dict.fromkeys(matching)
    return list(expanded)


def _unread(manager: Any, folder: Path) -> str:
    """Name the YAML files of a folder that lm_eval skipped, which it does silently."""
    read = {entry.yaml_path for entry in manager.task_index.values()}
    skipped = [str(path) for path in sorted(folder.rglob("*.yaml")) if path not in read]
    return f" (not read, or without a task: {', '.join(skipped[:5])})" if skipped else ""


def _load(manager: Any, name: str) -> Any:
    try:
        return manager.load([name])
    except Exception as error:  # from the hub, the data's library, or the task's own code
        raise DataError(
            f"task {name} can't be loaded: {_brief(error)}; expected a task that lm-eval {version('lm_eval')} can run, "
            "with its data on this machine or a network to download it; correct its YAML, find a network, or choose "
            "another"
        ) from error


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _metrics(entries: dict[str, Any]) -> dict[str, float | None]:
    """Return metrics by name; lm_eval's keys are `metric,filter`, beside a few that describe the task."""
    values = {key.removesuffix(",none"): value for key, value in entries.items() if "," in key}
    return {
        key: float(value) if not isinstance(value, str) and math.isfinite(value) else None
        for key, value in values.items()
    }
