"""The answer of `lost fit --json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lost.config import Config
from lost.scaling.annealing import annealing_law, rescheduled
from lost.scaling.comparison import FAR, crossings, effective_size
from lost.scaling.family import FittedFamily
from lost.scaling.law import CONSTANTS, Fit, interval
from lost.scaling.runs import TrainedRun


def report(fitted: FittedFamily, predictions: Sequence[tuple[float, float]] = ()) -> dict[str, Any]:
    """Return what is known of one kind.

    Args:
        fitted: the kind's runs and laws.
        predictions: sizes in parameters without embeddings, and tokens, whose losses are wanted.
    """
    family = fitted.family
    points = family.points("parameters")
    sizes, tokens = ([float(each.min()), float(each.max())] for each in (points.sizes, points.tokens))
    return {
        "kind": family.kind,
        "runs": len(family.runs),
        "points": len(points.losses),
        "at_peak": family.at_peak,
        "sizes": sizes,
        "tokens": tokens,
        "laws": {"parameters": _law(fitted.parameters), "flops": _law(fitted.flops)},
        "predictions": [
            {
                "size": size,
                "tokens": read,
                **dict(zip(("loss", "interval"), fitted.parameters.predict(size, read), strict=True)),
                "times": {"size": _times(size, sizes), "tokens": _times(read, tokens)},
            }
            for size, read in predictions
        ],
    }


def comparison(first: FittedFamily, second: FittedFamily) -> dict[str, Any]:
    """Return what is known of two kinds, and of one beside the other."""
    equal = effective_size(first, second)
    return {
        "compared": [report(each) for each in (first, second)],
        "crossings": [asdict(each) for each in crossings(first, second)],
        "effective_size": {**asdict(equal), "ratio": equal.equal and equal.equal / equal.size},
    }


def annealing_report(runs: Sequence[TrainedRun], schedules: Mapping[str, Config]) -> dict[str, Any]:
    """Return what is known of one model under several schedules.

    Args:
        runs: of the model.
        schedules: configurations whose schedules are to be foretold, by name.
    """
    law, points, held_out = annealing_law(runs)
    wanted = {name: rescheduled(runs[0], config) for name, config in schedules.items()}
    return {
        "runs": len(runs),
        "points": points,
        "law": asdict(law),
        "held_out": [
            {"run": str(each.run.folder), "schedule": each.run.config.schedule.name, "step": each.step}
            | {"loss": each.loss, "predicted": each.predicted, "error": each.error}
            for each in held_out
        ],
        "predictions": [
            {
                "schedule": name,
                "steps": config.schedule.total_steps,
                "loss": law.loss(config, config.schedule.total_steps),
            }
            for name, config in wanted.items()
        ],
    }


def far(prediction: dict[str, Any]) -> str:
    """Return how far a prediction is from what was trained, in words; nothing: near enough."""
    off = {what: times for what, times in prediction["times"].items() if times > FAR}
    return " and ".join(f"{times:.0f} times off the {what}" for what, times in off.items())


def _law(fit: Fit) -> dict[str, Any]:
    constants = {
        name: {"value": getattr(fit.law, name), "interval": interval([getattr(each, name) for each in fit.draws])}
        for name in CONSTANTS
    }
    return {"constants": constants, "deviation": fit.deviation}


def _times(value: float, trained: list[float]) -> float:
    """Return how many times a number is beyond a range; 1 inside it."""
    return max(1.0, value / trained[1], trained[0] / value)
