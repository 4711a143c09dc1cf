"""`lost convert --to hf`, `mlx-lm`, `dense` and `gguf`: exporting, uploading, and reporting the checks."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lost.cli.converting import quantizing
from lost.cli.converting.request import Answer, Job, Need, Request, own_type

if TYPE_CHECKING:
    from collections.abc import Callable

    from lost.checkpoint import Checkpoint
    from lost.interop.to_hf.folder import Export

License = Annotated[
    str | None,
    typer.Option(help="--to hf, mlx-lm, dense, peft: the licence in the card, by the hub's name, such as apache-2.0."),
]
Push = Annotated[
    str | None,
    typer.Option(
        metavar="OWNER/NAME", help="Upload the export to this repository of the hub, a private one; needs a token."
    ),
]
Public = Annotated[bool, typer.Option("--public", help="With --push: everybody may see it.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="With --push: write the export, and only list what would go up.")
]


def _export(request: Request) -> Answer:
    """Export a checkpoint, tell which programs opened it and agreed, and upload it where that is wanted."""
    return published(request, _written)


def published(request: Request, write: "Callable[[Request, Checkpoint], Answer]") -> Answer:
    """Return the answer of a function that writes an export, which is uploaded where that is wanted.

    Raises:
        UserError, NetworkError: it can't be uploaded, which is seen before anything is written as far as it can be.
    """
    from lost.cli.load import open_checkpoint_of
    from lost.interop.hub.upload import check_upload

    _check_license(request.license)
    checkpoint = open_checkpoint_of(request.source)
    if request.push is not None:
        check_upload(request.push, not request.dry_run)
    value, lines = write(request, checkpoint)
    if request.push is not None:
        value["push"], more = _send(request, request.push)
        lines += more
    return value, lines


def _written(request: Request, checkpoint: "Checkpoint") -> Answer:
    from lost.cli.render.output import note

    note(f"writing {request.out}, then opening it with the programs that are installed, to compare ...")
    result = _gguf(request, checkpoint) if request.to == "gguf" else _folder(request, checkpoint)
    for remark in result.remarks:
        note(remark)
    for reader, reason in result.missing.items():
        note(f"not checked with {reader}, which can't be used here: {reason}")
    if not result.agreements:
        reader = "xllamacpp" if request.to == "gguf" else "transformers or mlx-lm"
        note(f"{request.out} was NOT checked: install {reader} and convert again, to have it opened and compared")
    return _told(request, checkpoint, result)


def _check_license(license: str | None) -> None:
    from lost.errors import UserError

    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UserError(
            f"--license {license}: expected a licence by the hub's name, such as apache-2.0 or other; correct it"
        )


def _gguf(request: Request, checkpoint: "Checkpoint") -> "Export":
    from lost.interop.to_gguf.folder import export

    return export(checkpoint, request.out, request.dtype or "float16", request.overwrite, request.backend)


def _folder(request: Request, checkpoint: "Checkpoint") -> "Export":
    from lost.interop.to_hf.folder import export

    assert request.to == "hf" or request.to == "mlx-lm" or request.to == "dense"
    few = quantizing.quantization(request)
    return export(
        checkpoint,
        request.out,
        request.to,
        own_type(request),
        request.part_bytes,
        request.overwrite,
        request.backend,
        request.license,
        few,
        quantizing.measure_on(checkpoint, request.text, request.backend) if few else None,
    )


def _told(request: Request, checkpoint: "Checkpoint", result: "Export") -> Answer:
    from dataclasses import asdict

    from lost.utils.wording import sized

    step = checkpoint.progress.step
    value = {"path": str(request.out), "source": str(checkpoint.path), "to": request.to, "step": step}
    value |= {"dtype": result.dtype, "bytes": result.bytes, "needs_code": not result.plain}
    opens = "opens without code of ours" if result.plain else "opens with trust_remote_code"
    if request.to == "gguf":
        opens = "every tensor read back and compared"
    lines = [
        f"{checkpoint.path} -> {request.out}: step {step}, weights in {result.dtype}, {sized(result.bytes)}; {opens}",
        *(
            f"{each.reader}: log-probabilities differ by at most {each.difference:.1e}; the same token ids for "
            f"{each.texts} texts"
            for each in result.agreements
        ),
    ]
    value |= {"checks": [asdict(each) for each in result.agreements], "checked": bool(result.agreements)}
    if result.quantized:
        value["quantization"], more = quantizing.told(result.quantized)
        lines += more
    return value, lines


def _send(request: Request, name: str) -> tuple[dict[str, Any], list[str]]:
    """Upload an export unless it is a dry run, and return the answer as JSON and as lines."""
    from lost.interop.hub.upload import replaced, upload

    files = {each.name: each.stat().st_size for each in sorted(request.out.iterdir())}
    seen = "public" if request.public else "private"
    value: dict[str, Any] = {"repository": name, "private": not request.public, "files": files, "commit": None}
    value["removed"] = []
    if request.dry_run:
        lines = [f"{name} ({seen}) would get {each}: {size:,} bytes" for each, size in files.items()]
        if patterns := replaced(request.out):
            lines.append(f"other files there of these names would be removed: {', '.join(patterns)}")
        return value, [*lines, "nothing was uploaded; with --overwrite in place of --dry-run it will be"]
    done = upload(request.out, name, request.public)
    value |= {"commit": done.commit, "removed": done.removed}
    lines = [f"uploaded to {done.commit} ({seen})"]
    if done.removed:
        lines.append(f"removed there, as an earlier export's: {', '.join(done.removed)}")
    return value, lines


OPTIONS = frozenset({"--dtype", "--backend", "--push", "--public", "--dry-run"})
"""What every export honours."""
_FOLDER = OPTIONS | {"--license", "--part-mib"}
_ONLY_UPLOADED = "it says how an export is uploaded"
NEEDS = (Need("--public", ("--push",), _ONLY_UPLOADED), Need("--dry-run", ("--push",), _ONLY_UPLOADED))
REFUSES = {
    "--device": "exports are compared on the CPU",
    "--weights-only": "exports never hold an optimizer state",
}
_OF_GGUF = {"--part-mib": "a GGUF is one file", "--bits": "--dtype q8_0 stores a GGUF in 8 bits"}
JOBS = (
    Job("--to hf", _FOLDER, _export, NEEDS, REFUSES),
    Job("--to mlx-lm", _FOLDER | quantizing.OPTIONS, _export, (*NEEDS, *quantizing.NEEDS), REFUSES),
    Job("--to dense", _FOLDER, _export, NEEDS, REFUSES),
    Job("--to gguf", OPTIONS, _export, NEEDS, REFUSES | _OF_GGUF),
)
