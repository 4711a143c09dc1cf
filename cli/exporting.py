"""`lost convert --to hf`, `mlx-lm` and `dense`: exporting, and reporting the checks."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.interop.to_hf.folder import Form


def export_folder(
    checkpoint: "Checkpoint",
    out: Path,
    to: "Form",
    dtype: Literal["float32", "bfloat16"] | None,
    part_bytes: int,
    overwrite: bool,
    backend: str,
    as_json: bool,
) -> None:
    """Export a checkpoint, and report which programs opened it and agreed."""
    from dataclasses import asdict

    from lost.cli.render.output import answer, note, size
    from lost.interop.to_hf.folder import export

    result = export(checkpoint, out, to, dtype, part_bytes, overwrite, backend)
    for reader, reason in result.missing.items():
        note(f"not checked with {reader}, which can't be used here: {reason}")
    if not result.agreements:
        note(f"{out} was NOT checked: install transformers or mlx-lm and convert again, to have it opened and compared")
    value = {"path": str(out), "source": str(checkpoint.path), "to": to, "step": checkpoint.progress.step}
    value |= {"dtype": result.dtype, "bytes": result.bytes, "needs_code": not result.plain}
    checks = [asdict(each) for each in result.agreements]
    opens = "opens without code of ours" if result.plain else "opens with trust_remote_code"
    lines = [
        f"{checkpoint.path} -> {out}: step {checkpoint.progress.step}, weights in {result.dtype}, "
        f"{size(result.bytes)}; {opens}",
        *(
            f"{each.reader}: log-probabilities differ by at most {each.difference:.1e}; the same token ids for "
            f"{each.texts} texts"
            for each in result.agreements
        ),
    ]
    answer(as_json, {**value, "checks": checks, "checked": bool(checks)}, lines)
