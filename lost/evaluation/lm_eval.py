"""Tasks of EleutherAI's lm-evaluation-harness (`lm_eval`), run on an engine.

lm_eval brings the tasks: data, prompts, few-shot examples, metrics and standard errors. Beside its documented
interface, `TaskManager` and `evaluate`, this and the modules beside it read tasks' `config`, `OUTPUT_TYPE` and
`fewshot_cfg`, whose split they set, `TaskManager.task_index`, and generation settings by `normalize_gen_kwargs`.
"""

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lost.errors import GpuStoppedError, LostError, OutOfMemoryError, UserError
from lost.evaluation.lm_eval_generation import written
from lost.evaluation.lm_eval_loading import brief, load_tasks, silence
from lost.evaluation.lm_eval_model import LmEvalModel, as_lm_eval_model
from lost.utils.extras import need

_LESS = "a smaller --batch-size, or a smaller --context"
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
        among_questions: tasks whose examples are drawn from the questions that they ask, as they have no others.

    Raises:
        MissingPackageError: lm_eval isn't installed.
        DataError: no such task or folder, or a task's data can't be loaded.
        NetworkError, StorageError: the data can't be downloaded, or not be stored.
    """

    def __init__(self, names: Sequence[str], folder: Path | None, num_fewshot: int | None) -> None:
        with silence():
            need("lm_eval", "eval", "evaluating tasks")
            loaded = load_tasks(names, folder)
        self._tasks = {name: task for each in loaded for name, task in each["tasks"].items()}
        self._groups = {name: group for each in loaded for name, group in each["groups"].items()}
        self.without_examples = self._set_fewshot(num_fewshot)
        self.among_questions = [name for name, task in self._tasks.items() if _leave_out_the_question(task)]

    def _set_fewshot(self, count: int | None) -> list[str]:
        """Set the number of examples, but for tasks that say 0, which are returned: lm_eval's rule."""
        without = []
        for name, task in self._tasks.items():
            if count and task.get_config("num_fewshot") == 0:
                without.append(name)
            elif count is not None or task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=count or 0)
        return without

    def check_generation(self, context: int) -> bool:
        """Check how tasks have answers written, as far as they say so before they ask; return whether any does.

        Args:
            context: tokens that the model reads at once.

        Raises:
            UserError: one generates in a way that isn't supported, or more than there is room for.
        """
        writing = {name: task for name, task in self._tasks.items() if task.OUTPUT_TYPE == "generate_until"}
        with silence():
            for name, task in writing.items():
                written(task.get_config("generation_kwargs") or {}, context, f"task {name}")
        return bool(writing)

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
            OutOfMemoryError, GpuStoppedError: the device couldn't.
        """
        try:
            with silence():
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
            if OutOfMemoryError.caused(error):
                raise OutOfMemoryError(error, f"give {_LESS}, or end what else uses it") from error
            if GpuStoppedError.caused(error):
                raise GpuStoppedError(error, _LESS) from error
            raise UserError(
                f"lm-eval failed on {', '.join(self._tasks)}: {brief(error)}; expected tasks that lm-eval "
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


def _leave_out_the_question(task: Any) -> bool:
    """Have a task whose examples are drawn from what it asks draw none that is the question itself.

    lm_eval leaves that one out only where the task says that its examples are from there. Where it says nothing, and
    has nothing else to draw from, the question may stand there with its answer.
    """
    fewshot = getattr(task, "fewshot_cfg", None)  # of a task in YAML
    if not fewshot or not task.config.num_fewshot or fewshot.split is not None or fewshot.samples is not None:
        return False
    asked = task.config.test_split
    if not asked or (task.config.training_split or task.config.validation_split or asked) != asked:
        return False
    fewshot.split = asked
    return True


def _metrics(entries: dict[str, Any]) -> dict[str, float | None]:
    """Return metrics by name; lm_eval's keys are `metric,filter`, beside a few that describe the task."""
    return {key.removesuffix(",none"): _number(value) for key, value in entries.items() if "," in key}


def _number(value: Any) -> float | None:
    """Return a metric's value; None: it isn't a finite number, as a task of others may have lists or words there."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
