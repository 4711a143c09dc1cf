"""`lost convert --to peft`: exporting adapters alone."""

from typing import TYPE_CHECKING

from lost.cli.converting.exporting import NEEDS, OPTIONS, REFUSES, published
from lost.cli.converting.request import Answer, Job, Request, own_type

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint


def _export(request: Request) -> Answer:
    """Export the adapters of a checkpoint, and say on which model they are to be opened."""
    return published(request, _written)


def _written(request: Request, checkpoint: "Checkpoint") -> Answer:
    from lost.cli.render.output import note
    from lost.interop.hub.download import as_typed
    from lost.interop.to_peft import export
    from lost.utils.wording import sized

    to_publish = request.push is not None
    kept, how = own_type(request), (request.overwrite, request.backend, request.license, to_publish)
    result = export(checkpoint, request.out, kept, *how)
    for remark in result.remarks:
        note(remark)
    if result.base is None:
        where = as_typed(result.origin) if result.origin else "the base model"
        note(
            f"PEFT opens adapters on a model as transformers has it: make one by `lost convert {where} BASE --to hf`, "
            "and name BASE to it"
        )
    base = str(result.base) if result.base else None
    value = {"path": str(request.out), "source": str(checkpoint.path), "to": "peft", "step": checkpoint.progress.step}
    value |= {"dtype": result.dtype, "bytes": result.bytes, "base": base, "difference": result.difference}
    lines = [
        f"{checkpoint.path} -> {request.out}: step {checkpoint.progress.step}, adapters in {result.dtype}, "
        f"{sized(result.bytes)}; opens with peft{f' on {as_typed(result.base)}' if result.base else ''}",
        f"the base model with what was written: log-probabilities differ by at most {result.difference:.1e}",
    ]
    return value, lines


JOB = Job("--to peft", OPTIONS | {"--license"}, _export, NEEDS, REFUSES | {"--part-mib": "adapters are one file"})
