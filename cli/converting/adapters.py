"""`lost convert --to peft`: exporting adapters alone."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lost.checkpoint import Checkpoint
    from lost.config import DType


def export_adapters(
    checkpoint: "Checkpoint", out: Path, dtype: "DType | None", overwrite: bool, backend: str, as_json: bool
) -> None:
    """Export the adapters of a checkpoint, and say on which model they are to be opened."""
    from lost.cli.render.output import answer, note
    from lost.interop.hub.download import as_typed
    from lost.interop.to_peft import export
    from lost.utils.wording import sized

    result = export(checkpoint, out, dtype, overwrite, backend)
    for remark in result.remarks:
        note(remark)
    if result.base is None:
        where = as_typed(result.origin) if result.origin else "the base model"
        note(
            f"PEFT opens adapters on a model as transformers has it: make one by `lost convert {where} BASE --to hf`, "
            "and name BASE to it"
        )
    base = str(result.base) if result.base else None
    value = {"path": str(out), "source": str(checkpoint.path), "to": "peft", "step": checkpoint.progress.step}
    value |= {"dtype": result.dtype, "bytes": result.bytes, "base": base, "difference": result.difference}
    lines = [
        f"{checkpoint.path} -> {out}: step {checkpoint.progress.step}, adapters in {result.dtype}, "
        f"{sized(result.bytes)}; opens with peft{f' on {as_typed(result.base)}' if result.base else ''}",
        f"the base model with what was written: log-probabilities differ by at most {result.difference:.1e}",
    ]
    answer(as_json, value, lines)
