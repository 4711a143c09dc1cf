"""`lost convert --to peft`: exporting adapters alone."""

from lost.cli.converting.exporting import NEEDS_OF_UPLOAD, UPLOAD, check_license, send
from lost.cli.converting.request import Answer, Job, Request


def _export(request: Request) -> Answer:
    """Export the adapters of a checkpoint, and say on which model they are to be opened."""
    from lost.cli.converting.sources import checkpoint_of, own_type
    from lost.cli.render.output import note
    from lost.interop.hub.download import as_typed
    from lost.interop.hub.upload import check_upload
    from lost.interop.to_peft import export
    from lost.utils.wording import sized

    check_license(request.license)
    checkpoint = checkpoint_of(request)
    if request.push is not None:
        check_upload(request.push, not request.dry_run)
    result = export(
        checkpoint,
        request.out,
        own_type(request),
        request.overwrite,
        request.backend,
        request.license,
        request.push is not None,
    )
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
    if request.push is not None:
        value["push"], more = send(request.push, request)
        lines += more
    return value, lines


JOB = Job(
    "--to peft",
    frozenset({*UPLOAD, "--license"}),
    _export,
    NEEDS_OF_UPLOAD,
    {"--device": "adapters are compared on the CPU", "--part-mib": "adapters are one file"},
)
