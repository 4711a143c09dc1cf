"""`lost convert --from hf`: importing another library's model, or an export, as a checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from lost.config import Config, DType
    from lost.engine import Engine
    from lost.evaluation.perplexity import Evaluation
    from lost.interop.from_hf import Imported
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
    density: float | None
    calibrate: Path | None
    text: Path | None
    backend: str
    device: str


def import_folder(request: Request, as_json: bool) -> None:
    """Convert, measure and answer."""
    from lost.cli.render.output import answer, note
    from lost.config import ProjectionSettings
    from lost.errors import UserError
    from lost.evaluation.perplexity import text_tokens
    from lost.interop.from_hf import open_folder
    from lost.interop.from_hf.conversion import decomposed_config, write_decomposed, write_unchanged
    from lost.interop.hub.download import fetched
    from lost.interop.rewrite import check_destination, follow

    for option in ("density", "calibrate"):
        if getattr(request, option) is not None and request.rank is None:
            raise UserError(f"--{option} without --rank: it only affects decomposition; add --rank, or leave it out")
    check_destination(request.out, request.source, request.overwrite)
    request = replace(request, source=fetched(request.source))
    imported = open_folder(request.source)
    for remark in imported.remarks:
        note(remark)
    config = imported.config
    target = None  # the decomposed model's configuration
    if request.rank is not None:
        density = ProjectionSettings().density if request.density is None else request.density
        target = decomposed_config(follow(config, request.dtype), request.rank, density)
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
    rest = (request.part_bytes, request.overwrite)
    if target is None:
        written = write_unchanged(imported, request.out, request.dtype, *rest)
    else:
        moments = _input_moments(engine, config, calibration) if engine and calibration is not None else None
        written, layers = write_decomposed(imported, request.out, target, *rest, moments, note)
        del moments
    if engine and measured is not None:
        del engine  # before the next one is made
        after = _measure(
            _engine(written.config, written.parameters(), request), written.config, measured, measured_bytes
        )
    value = _value(request, imported, written.config, layers, before, after)
    value["bytes"] = sum(seal["size"] for seal in written.files.values())
    answer(as_json, value, _lines(request, value, layers, before, after))


def _engine(config: "Config", parameters: "NamedArrays", request: Request) -> "Engine":
    from lost.engine import create_engine

    engine = create_engine(config, request.backend, request.device)
    engine.load(parameters)
    return engine


def _measure(engine: "Engine", config: "Config", tokens: "np.ndarray", text_bytes: int | None) -> "Evaluation":
    from lost.evaluation.perplexity import evaluate

    return evaluate(engine, tokens, config.data.seq_len, config.train.micro_batch, text_bytes=text_bytes)


def _input_moments(engine: "Engine", config: "Config", tokens: "np.ndarray") -> Any:
    """Return a function from projections' names to the second moments of their inputs over a text."""
    from lost.data.evaluation import evaluation_batches
    from lost.engine import backend_module

    def measure(names: Sequence[str]) -> "dict[str, np.ndarray]":
        batches = evaluation_batches(tokens, config.data.seq_len, config.train.micro_batch)
        return backend_module(engine.backend).input_moments(engine, batches, names)

    return measure


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
    before: "Evaluation | None",
    after: "Evaluation | None",
) -> list[str]:
    from lost.cli.render.output import count, size, table

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
        f"{size(value['bytes'])}; read back and compared"
    )
    if before and after:
        where = request.text or f"the last part of {request.calibrate}"
        lines.append(
            f"perplexity on {where} ({before.tokens:,} tokens): {before.perplexity:.3f} before, "
            f"{after.perplexity:.3f} after"
        )
    return lines
