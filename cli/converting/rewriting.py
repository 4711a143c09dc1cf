"""`lost convert --to lost`: a checkpoint in another type, in files of another size, or without moments."""

from typing import Annotated

import typer

from lost.cli.converting.request import Answer, Job, Request, own_type

WeightsOnly = Annotated[
    bool,
    typer.Option(
        "--weights-only", help="--to lost: without the optimizer state, a third of the size; can't be resumed."
    ),
]


def _rewrite(request: Request) -> Answer:
    from lost.checkpoint import OPTIMIZER
    from lost.cli.load import open_checkpoint_of
    from lost.interop.rewrite import rewrite
    from lost.utils.wording import counted, sized

    source = open_checkpoint_of(request.source)
    written = rewrite(
        source, request.out, own_type(request), request.weights_only, request.part_bytes, request.overwrite
    )
    before, after = (sum(seal["size"] for seal in each.files.values()) for each in (source, written))
    dtype, has_moments = written.config.train.param_dtype, bool(written.array_files(OPTIMIZER))
    value = {"path": str(request.out), "source": str(source.path), "to": "lost", "step": written.progress.step}
    value |= {"dtype": dtype, "optimizer": has_moments, "bytes": after}
    what = "weights and optimizer state" if has_moments else "weights"
    lines = [
        f"{source.path} -> {request.out}: step {written.progress.step}, {what} in {dtype}, {sized(after)} (was "
        f"{sized(before)}) in {counted(len(written.files), 'file')}; read back and compared"
    ]
    return value, lines


JOB = Job(
    "--to lost",
    frozenset({"--dtype", "--weights-only", "--part-mib"}),
    _rewrite,
    refuses={"--backend": "nothing is computed", "--device": "nothing is computed"},
)
