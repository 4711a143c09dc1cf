"""`lost convert --from hf`: importing another library's model, or an export, as a checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lost.cli.converting import budgeting
from lost.cli.converting.request import Answer, Job, Need, Request, own_type
from lost.cli.options import path_option

if TYPE_CHECKING:
    import numpy as np

    from lost.config import Config, DType
    from lost.engine import Engine
    from lost.evaluation.perplexity import Evaluation
    from lost.interop.from_hf import Imported
    from lost.interop.from_hf.conversion import Weightings
    from lost.method.compress import LayerFit
    from lost.storage.arrays import NamedArrays

_HELD_OUT = 10  # a tenth of a calibration text is held out for measuring
Rank = Annotated[
    int | None, typer.Option(help="With --from hf: decompose projections into LOST layers of this rank.", min=1)
]
Density = Annotated[
    float | None,
    typer.Option(help="With --rank or --budget: share of input channels to keep; default 0.03.", min=0, max=1),
]
Calibrate = Annotated[
    Path | None,
    path_option("With --rank or --budget: calibration text, on whose activations the error is minimized."),
]
WeightBy = Annotated[
    Literal["activations", "fisher"] | None,
    typer.Option(help="With --calibrate: what weights the error; fisher: squared gradients of the loss too."),
]
MeasureOn = Annotated[
    Path | None,
    path_option(
        "With --from hf or --bits: text to measure perplexity on; default: the end of --calibrate, or the run's "
        "validation text."
    ),
]


def _import(request: Request) -> Answer:
    """Convert, and measure before and after."""
    from lost.cli.render.output import note
    from lost.interop.destination import check_destination
    from lost.interop.from_hf import open_folder
    from lost.interop.from_hf.conversion import check_plain, write_decomposed, write_unchanged
    from lost.interop.hub.download import fetched

    dtype, budget = own_type(request), budgeting.asked(request)
    option = request.given.get("--rank") or request.given.get("--budget")
    _check_density(request.density)
    check_destination(request.out, request.source, request.overwrite)
    request = replace(request, source=fetched(request.source))
    imported = open_folder(request.source)
    for remark in imported.remarks:
        note(remark)
    if option:
        check_plain(imported.config, option)
    calibration, measured, measured_bytes = _texts(request, imported)
    engine = before = after = None
    if calibration is not None or measured is not None:
        engine = _engine(imported.config, imported.parameters(), request)
    if engine and measured is not None:
        before = _measure(engine, imported.config, measured, measured_bytes)
    layers: list[LayerFit] = []
    chosen = None
    rest = (request.part_bytes, request.overwrite)
    if not option:
        written = write_unchanged(imported, request.out, dtype, *rest)
    else:
        weightings = _weightings(request, imported, engine, calibration)
        target, chosen = _target(request, budget, dtype, imported, weightings, engine, calibration)
        written, layers = write_decomposed(imported, request.out, target, *rest, weightings, note)
        del weightings
    if engine and measured is not None:
        del engine  # before the next one is made
        after = _measured_after(request, written.config, written.parameters(), measured, measured_bytes)
    value = _value(request, imported, written.config, layers, before, after)
    value["bytes"] = sum(seal["size"] for seal in written.files.values())
    value["budget"] = chosen.value if chosen else None
    return value, _lines(request, value, layers, chosen.lines if chosen else [], before, after)


def _check_density(density: float | None) -> None:
    from lost.errors import UserError

    if density is not None and not 0 < density <= 1:
        raise UserError(f"density = {density}: expected a share of the input channels, in (0, 1]")


def _texts(request: Request, imported: "Imported") -> "tuple[np.ndarray | None, np.ndarray | None, int | None]":
    """Return tokens to calibrate on, tokens to measure on, and the bytes of the text that the latter are all of."""
    from lost.cli.render.output import note
    from lost.evaluation.perplexity import text_tokens
    from lost.interop.special_tokens import read_after

    tokenizer = imported.tokenizer
    begin = read_after(tokenizer, None)
    calibration = measured = size = None
    if request.calibrate:
        calibration, _ = text_tokens(tokenizer, request.calibrate, note, begin)
        held_out = len(calibration) // _HELD_OUT
        if held_out > 1 and not request.text:
            calibration, measured = calibration[:-held_out], calibration[-held_out:]
    if request.text:
        measured, size = text_tokens(tokenizer, request.text, note, begin)
    return calibration, measured, size


def _target(
    request: Request,
    budget: "budgeting.Budget | None",
    dtype: "DType | None",
    imported: "Imported",
    weightings: "Weightings",
    engine: "Engine | None",
    calibration: "np.ndarray | None",
) -> "tuple[Config, budgeting.Chosen | None]":
    """Return the decomposed model's configuration, and how its ranks met a budget."""
    from lost.cli.render.output import note
    from lost.config import ProjectionSettings
    from lost.interop.from_hf.conversion import decomposed_config, equal_ranks
    from lost.interop.rewrite import follow

    density = ProjectionSettings().density if request.density is None else request.density
    config = follow(imported.config, dtype)
    if budget is None:
        assert request.rank is not None
        return decomposed_config(config, equal_ranks(config, request.rank), density), None
    chosen = budgeting.choose_ranks(budget, imported, density, weightings, engine, calibration, note)
    return decomposed_config(config, chosen.ranks, density), chosen


def _engine(config: "Config", parameters: "NamedArrays", request: Request) -> "Engine":
    from lost.engine import create_engine, inference_config

    engine = create_engine(inference_config(config), request.backend, request.device)
    engine.load(parameters)
    return engine


def _measure(engine: "Engine", config: "Config", tokens: "np.ndarray", text_bytes: int | None) -> "Evaluation":
    from lost.evaluation.perplexity import evaluate

    return evaluate(engine, tokens, config.data.seq_len, config.train.micro_batch, text_bytes=text_bytes)


def _measured_after(
    request: Request, config: "Config", parameters: "NamedArrays", tokens: "np.ndarray", text_bytes: int | None
) -> "Evaluation | None":
    """Return how the result does; None: it couldn't be told, which takes nothing from what is written."""
    from lost.cli.render.output import note

    try:
        return _measure(_engine(config, parameters, request), config, tokens, text_bytes)
    except (Exception, KeyboardInterrupt) as error:
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
        note(f"{request.out} is complete, but wasn't measured ({why}); lost eval {request.out} --text TEXT measures it")
        return None


def _weightings(
    request: Request, imported: "Imported", engine: "Engine | None", tokens: "np.ndarray | None"
) -> "Weightings":
    """Return what errors are weighted by, measured over a text where there is one."""
    from lost.data.evaluation import evaluation_batches
    from lost.engine import backend_module
    from lost.interop.from_hf.conversion import Weightings
    from lost.model.parameters import projections
    from lost.reshape.fisher import gradient_squares_by_row

    if engine is None or tokens is None:
        return Weightings()
    config, backend = imported.config, backend_module(engine.backend)

    def measure(names: Sequence[str]) -> "dict[str, np.ndarray]":
        batches = evaluation_batches(tokens, config.data.seq_len, config.train.micro_batch)
        return backend.input_moments(engine, batches, names)

    if request.weight_by != "fisher":
        return Weightings(measure)
    samples = evaluation_batches(tokens, config.data.seq_len, 1)
    names = [each.name for each in projections(config)]
    squares = gradient_squares_by_row(config, imported.parameters(), samples, names, request.backend, request.device)
    return Weightings(measure, squares)


def _value(
    request: Request,
    imported: "Imported",
    config: "Config",
    layers: "Sequence[LayerFit]",
    before: "Evaluation | None",
    after: "Evaluation | None",
) -> dict[str, Any]:
    from lost.model.parameters import parameter_table

    def count(config: "Config") -> int:
        return sum(row.size for row in parameter_table(config).values() if row.trained)

    value: dict[str, Any] = {
        "path": str(request.out),
        "source": str(request.source),
        "from": "hf",
        "to": "lost",
        "architecture": imported.architecture,
        "dtype": config.train.param_dtype,
        "parameters": {"before": count(imported.config), "after": count(config)},
        "remarks": imported.remarks,
        "layers": [asdict(each) for each in layers],
        "perplexity": None,
    }
    if before and after:
        value["perplexity"] = {"before": before.perplexity, "after": after.perplexity, "tokens": before.tokens}
    return value


def _lines(
    request: Request,
    value: dict[str, Any],
    layers: "Sequence[LayerFit]",
    remarks: list[str],
    before: "Evaluation | None",
    after: "Evaluation | None",
) -> list[str]:
    from lost.cli.render.output import count, table
    from lost.utils.wording import sized

    lines = []
    if layers:
        rows = [
            [
                each.name,
                f"{each.shape[0]} x {each.shape[1]}",
                each.rank,
                each.channels,
                f"{each.error:.2e}",
                *([] if each.input_error is None else [f"{each.input_error:.2e}"]),
            ]
            for each in layers
        ]
        head = ["projection", "out x in", "rank", "channels", "error", "on its inputs"]
        lines += [*table(head[: len(rows[0])], rows), ""]
    parameters = value["parameters"]
    what = f"{count(parameters['after'])} parameters"
    if layers:
        what += f" (were {count(parameters['before'])})"
    lines.append(
        f"{request.source} ({value['architecture']}) -> {request.out}: {what} in {value['dtype']}, "
        f"{sized(value['bytes'])}; read back and compared"
    )
    lines += remarks
    if before and after:
        where = request.text or f"the last part of {request.calibrate}"
        lines.append(
            f"perplexity on {where} ({before.tokens:,} tokens): {before.perplexity:.3f} before, "
            f"{after.perplexity:.3f} after"
        )
    return lines


_TO_DECOMPOSE = ("--rank", "--budget")
_COMPUTES = ("--calibrate", "--text")
_ONLY_MEASURING = "nothing is computed on a device"
JOB = Job(
    "--from hf",
    budgeting.OPTIONS
    | {"--rank", "--density", "--calibrate", "--weight-by", "--text"}
    | {"--dtype", "--part-mib", "--backend", "--device"},
    _import,
    (
        Need("--density", _TO_DECOMPOSE, "it only affects decomposition"),
        Need("--calibrate", _TO_DECOMPOSE, "it only affects decomposition"),
        Need("--weight-by", ("--calibrate",), "there is no text to measure it on"),
        *budgeting.NEEDS,
        Need("--backend", _COMPUTES, _ONLY_MEASURING),
        Need("--device", _COMPUTES, _ONLY_MEASURING),
    ),
    {"--weights-only": "the folder holds no optimizer state"},
)
