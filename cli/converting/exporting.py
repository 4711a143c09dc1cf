"""`lost convert --to hf`, `mlx-lm`, `dense` and `gguf`: exporting, and reporting the checks."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.cli.converting.pushing import Push
    from lost.config import DType
    from lost.interop.to_gguf.tensors import GgufType
    from lost.interop.to_hf.folder import Form
    from lost.interop.to_hf.quantized import Quantization


def export_folder(
    checkpoint: "Checkpoint",
    out: Path,
    to: "Form | Literal['gguf']",
    dtype: "GgufType | None",
    part_bytes: int,
    overwrite: bool,
    backend: str,
    license: str | None,
    push: "Push | None",
    few: "Quantization | None",
    text: Path | None,
    as_json: bool,
) -> None:
    """Export a checkpoint, report which programs opened it and agreed, and upload it where that is wanted."""
    from dataclasses import asdict

    from lost.cli.converting.quantizing import measure_on, told
    from lost.cli.render.output import answer, note
    from lost.interop.to_gguf import folder as gguf
    from lost.interop.to_hf import folder as hf
    from lost.utils.wording import sized

    if push:
        push.check()
    note(f"writing {out}, then opening it with the programs that are installed, to compare ...")
    if to == "gguf":
        result = gguf.export(checkpoint, out, dtype or "float16", overwrite, backend)
    else:
        measure = measure_on(checkpoint, text, backend) if few else None
        kept = cast("DType | None", dtype)
        result = hf.export(checkpoint, out, to, kept, part_bytes, overwrite, backend, license, few, measure)
    for remark in result.remarks:
        note(remark)
    for reader, reason in result.missing.items():
        note(f"not checked with {reader}, which can't be used here: {reason}")
    if not result.agreements:
        reader = "xllamacpp" if to == "gguf" else "transformers or mlx-lm"
        note(f"{out} was NOT checked: install {reader} and convert again, to have it opened and compared")
    value = {"path": str(out), "source": str(checkpoint.path), "to": to, "step": checkpoint.progress.step}
    value |= {"dtype": result.dtype, "bytes": result.bytes, "needs_code": not result.plain}
    checks = [asdict(each) for each in result.agreements]
    opens = "opens without code of ours" if result.plain else "opens with trust_remote_code"
    if to == "gguf":
        opens = "every tensor read back and compared"
    lines = [
        f"{checkpoint.path} -> {out}: step {checkpoint.progress.step}, weights in {result.dtype}, "
        f"{sized(result.bytes)}; {opens}",
        *(
            f"{each.reader}: log-probabilities differ by at most {each.difference:.1e}; the same token ids for "
            f"{each.texts} texts"
            for each in result.agreements
        ),
    ]
    value |= {"checks": checks, "checked": bool(checks)}
    if result.quantized:
        value["quantization"], more = told(result.quantized)
        lines += more
    if push:
        value["push"], more = push.send(out)
        lines += more
    answer(as_json, value, lines)
