"""Tasks of EleutherAI's lm-evaluation-harness, asked of a model on an engine.

The harness brings the tasks: their data, prompts, few-shot examples, metrics and standard errors. What is used of it is
the documented part, `TaskManager` and `evaluate`.
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
from lost.evaluation.lm_eval_model import HarnessModel, as_harness_class
from lost.utils.extras import need

# Resamples for the standard error of metrics without a formula for it: it comes out to 2 %, in seconds, not minutes.
_RESAMPLES = 1000


class Tasks:
    """Tasks that are found and whose data is there.

    Args:
        names: of tasks, groups or tags, with wildcards.
        folder: searched for YAML files of own tasks, besides the harness' own; None: only those.
        num_fewshot: examples before each question; None: as each task says.

    Attributes:
        without_examples: tasks that are asked without any, although some were wanted.

    Raises:
        MissingPackageError: the harness isn't installed.
        DataError: no such task or folder, or a task's data can't be had.
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
        """Set the number of examples, by the harness' rule: where a task says 0, that stays. Return those tasks."""
        from lm_eval.defaults import DEFAULT_OTHER_SEED

        without = []
        for name, task in self._tasks.items():
            if count and task.get_config("num_fewshot") == 0:
                without.append(name)
            elif count is not None or task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=count or 0)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        return without

    def ask(self, model: HarnessModel, limit: int | None) -> dict[str, Any]:
        """Run all tasks.

        Args:
            model: is asked.
            limit: documents of each task, the first ones; None: all.

        Returns:
            `results` (task or group, to metrics and their standard errors, `<metric>_stderr`), `versions`, `n_shot`,
            `documents` (evaluated, by task), `higher_is_better`, and the version of `lm_eval`. A filter that isn't the
            default stands after the metric's name and a comma. What isn't a finite number is None.

        Raises:
            UserError: a task that can't be asked of this model, or that is broken.
        """
        try:
            with _silence():
                from lm_eval.evaluator import evaluate

                answer = evaluate(
                    lm=as_harness_class(model),
                    task_dict={"tasks": self._tasks, "groups": self._groups},
                    limit=limit,
                    bootstrap_iters=_RESAMPLES,
                    log_samples=False,
                )
        except LostError:
            raise
        except Exception as error:  # tasks are other people's YAML and Python: anything may come out of them
            raise UserError(
                f"the harness stopped at {', '.join(self._tasks)}: {_said(error)}; expected tasks that "
                f"lm-eval {version('lm_eval')} runs; mend the task, or leave it out; --debug shows where"
            ) from error
        return {
            "results": {name: _metrics(found) for name, found in answer["results"].items()},
            "versions": answer["versions"],
            "n_shot": answer["n-shot"],
            "documents": {name: count["effective"] for name, count in answer["n-samples"].items()},
            "higher_is_better": answer["higher_is_better"],
            "lm_eval": version("lm_eval"),
        }


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what the harness and its libraries print: bars, log lines, notes on standard output."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"  # its resampling would fork a process with a device open, which may hang
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _manager(names: Sequence[str], folder: Path | None) -> Any:
    """Return what knows the tasks: where all are the user's own, only those, as reading the others takes a while."""
    from lm_eval.tasks import TaskManager

    if folder is None:
        return TaskManager()
    if not folder.is_dir():
        raise DataError(f"--include-path {folder} is no folder; expected one with YAML files of tasks")
    own = TaskManager(include_path=str(folder), include_defaults=False)
    if not own.all_tasks:
        raise DataError(
            f"--include-path {folder} holds no task{_unread(own, folder)}; expected YAML files with `task: NAME`, as "
            "docs/evaluation.md shows"
        )
    return own if set(names) <= set(own.all_subtasks) else TaskManager(include_path=str(folder))


def _expanded(manager: Any, names: Sequence[str], folder: Path | None) -> list[str]:
    """Return the names with wildcards filled in."""
    found: dict[str, None] = {}
    for name in names:
        matching = manager.match_tasks([name])
        if not matching:
            near = difflib.get_close_matches(name, manager.all_tasks, 5)
            raise DataError(
                f"--tasks {name}: no such task, group or tag{_unread(manager, folder) if folder else ''}; "
                + (f"did you mean {' or '.join(near)}?" if near else "`lm_eval ls tasks` lists what the harness has; ")
                + ("" if folder else " Own tasks are found with --include-path")
            )
        found |= dict.fromkeys(matching)
    return list(found)


def _unread(manager: Any, folder: Path) -> str:
    """Say which YAML files of a folder the harness passed over, which it does without a word."""
    read = {entry.yaml_path for entry in manager.task_index.values()}
    passed = [str(path) for path in sorted(folder.rglob("*.yaml")) if path not in read]
    return f" (not read, or without a task: {', '.join(passed[:5])})" if passed else ""


def _load(manager: Any, name: str) -> Any:
    try:
        return manager.load([name])
    except Exception as error:  # whatever the hub, the data's library, or the task's own code raise
        raise DataError(
            f"task {name} can't be loaded: {_said(error)}; expected a task that lm-eval {version('lm_eval')} runs, its "
            "data on this machine or a network to fetch it from; correct its YAML, or choose another"
        ) from error


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _metrics(found: dict[str, Any]) -> dict[str, float | None]:
    """Return metric to value; the harness' keys are `metric,filter` beside a few that say what the task is."""
    values = {key.removesuffix(",none"): value for key, value in found.items() if "," in key}
    return {
        key: float(value) if not isinstance(value, str) and math.isfinite(value) else None
        for key, value in values.items()
    }
