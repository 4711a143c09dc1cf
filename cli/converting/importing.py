"""`lost convert --from hf`: importing another library's model, or an export, as a checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from lost.cli.converting.budgeting import Budget, Chosen
    from lost.config import Config, DType
    from lost.engine import Engine
    from lost.evaluation.perplexity import Evaluation
    from lost.interop.from_hf import Imported
    from lost.interop.from_hf.conversion import Weightings
    from lost.method.compress import LayerFit
    from lost.storage.arrays import NamedArrays

_HELD_OUT = 10  # a tenth of a calibration text is held out for measuring


@dataclass(frozen=True)
class Request:
    """The options of `lost convert`."""

    source: Path
    out: Path
    dtype: "DType | None"
    part_bytes: int
    overwrite: bool
    rank: int | None
    budget: "Budget | None"
    density: float | None
    calibrate: Path | None
    weight_by: str | None
    text: Path | None
    backend: str
    device: str


def import_folder(request: Request, as_json: bool) -> None:
    """Convert, measure and answer."""
    from lost.cli.render.output import answer, note
    from lost.evaluation.perplexity import text_tokens
    from lost.interop.from_hf import open_folder
    from lost.interop.from_hf.conversion import check_plain, write_decomposed, write_unchanged
    from lost.interop.hub.download import fetched
    from lost.interop.rewrite import check_destination

    _check_options(request)
    check_destination(request.out, request.source, request.overwrite)
    request = replace(request, source=fetched(request.source))
    imported = open_folder(request.source)
    for remark in imported.remarks:
        note(remark)
    config = imported.config
    if option := _asks_to_decompose(request):
        check_plain(config, option)
    calibration, measured, measured_bytes = None, None, None  # tokens to calibrate on, tokens to measure on
    if request.calibrate:
        tokens, _ = text_tokens(imported.tokenizer, request.calibrate, note)
        held_out = len(tokens) // _HELD_OUT
        calibration = tokens
        if held_out > 1 and not request.text:
            calibration, measured = tokens[:-held_out], tokens[-held_out:]
    if request.text:
        measured, measured_bytes = text_tokens(imported.tokenizer, request.text, note)

    engine = before = after = None
    if calibration is not None or measured is not None:
        engine = _engine(config, imported.parameters(), request)
    if engine and measured is not None:
        before = _measure(engine, config, measured, measured_bytes)
    layers: list[LayerFit] = []
    chosen = None
    rest = (request.part_bytes, request.overwrite)
    if not option:
        written = write_unchanged(imported, request.out, request.dtype, *rest)
    else:
        weightings = _weightings(request, imported, engine, calibration)
        target, chosen = _target(request, imported, weightings, engine, calibration)
        written, layers = write_decomposed(imported, request.out, target, *rest, weightings, note)
        del weightings
    if engine and measured is not None:
        del engine  # before the next one is made
        after = _measure(
            _engine(written.config, written.parameters(), request), written.config, measured, measured_bytes
        )
    value = _value(request, imported, written.config, layers, before, after)
    value["bytes"] = sum(seal["size"] for seal in written.files.values())
    value["budget"] = chosen.value if chosen else None
    answer(as_json, value, _lines(request, value, layers, chosen.lines if chosen else [], before, after))


def _asks_to_decompose(request: Request) -> str:
    """Return the option that does, or nothing."""
    if request.rank is not None:
        return f"--rank {request.rank}"
    return f"--budget {request.budget.share:g}" if request.budget else ""


def _check_options(request: Request) -> None:
    from lost.errors import UserError

    if not _asks_to_decompose(request):
        for option in ("density", "calibrate"):
            if getattr(request, option) is not None:
                raise UserError(
                    f"--{option} without --rank or --budget: it only affects decomposition; add one of them, or leave "
                    "it out"
                )
    if request.calibrate is None and request.text is None and (request.backend, request.device) != ("auto", "auto"):
        option = f"--device {request.device}" if request.device != "auto" else f"--backend {request.backend}"
        raise UserError(f"{option} without --calibrate or --text: nothing is computed on a device; leave it out")
    if request.density is not None and not 0 < request.density <= 1:
        raise UserError(f"density = {request.density}: expected a share of the input channels, in (0, 1]")
    if request.calibrate is None and request.weight_by is not None:
        raise UserError(
            f"--weight-by {request.weight_by} without --calibrate: there is no text to measure it on; add --calibrate"
        )


def _target(
    request: Request,
    imported: "Imported",
    weightings: "Weightings",
    engine: "Engine | None",
    calibration: "np.ndarray | None",
) -> "tuple[Config, Chosen | None]":
    """Return the decomposed model's configuration, and how its ranks met a budget."""
    from lost.cli.converting.budgeting import choose_ranks
    from lost.cli.render.output import note
    from lost.config import ProjectionSettings
    from lost.interop.from_hf.conversion import decomposed_config, equal_ranks
    from lost.interop.rewrite import follow

    density = ProjectionSettings().density if request.density is None else request.density
    config = follow(imported.config, request.dtype)
    if request.budget is None:
        assert request.rank is not None
        return decomposed_config(config, equal_ranks(config, request.rank), density), None
    chosen = choose_ranks(request.budget, imported, density, weightings, engine, calibration, note)
    return decomposed_config(config, chosen.ranks, density), chosen


def _engine(config: "Config", parameters: "NamedArrays", request: Request) -> "Engine":
    from lost.engine import create_engine, inference_config

    engine = create_engine(inference_config(config), request.backend, request.device)
    engine.load(parameters)
    return engine


def _measure(engine: "Engine", config: "Config", tokens: "np.ndarray", text_bytes: int | None) -> "Evaluation":
    from lost.evaluation.perplexity import evaluate

    return evaluate(engine, tokens, config.data.seq_len, config.train.micro_batch, text_bytes=text_bytes)


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
