"""A model on disk, whoever wrote it: the one way in which commands open what they are given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lost.checkpoint import CHECKPOINTS, CONFIG, MANIFEST, TrainState, find_checkpoint
from lost.config import Config
from lost.errors import CheckpointError
from lost.interop.from_hf import open_folder
from lost.interop.hub.download import fetched
from lost.interop.special_tokens import ends_of_text
from lost.model.parameters import vocabulary
from lost.storage.arrays import NamedArrays
from lost.tokenizer import Tokenizer
from lost.tracking.log import FILE as LOG
from lost.utils.wording import did_you_mean_path


@dataclass(frozen=True)
class Source:
    """A model on disk.

    Attributes:
        path: the checkpoint, or the folder of another library.
        config: its model and projections; of a checkpoint also how it was trained.
        progress: of its training; None: a folder, which doesn't say.
        seq_len: tokens in a window of its training; None: unknown.
        tokenizer: reads the tokenizer.
        parameters: yields its arrays by name.
        sizes: of its files in bytes, by name.
        remarks: on how it was read, for the user.
        ends: tokens that it says end a text, beside end-of-text, which may be among them.
    """

    path: Path
    config: Config
    progress: TrainState | None
    seq_len: int | None
    tokenizer: Callable[[], Tokenizer]
    parameters: Callable[[], NamedArrays]
    sizes: Mapping[str, int]
    remarks: Sequence[str]
    ends: tuple[int, ...] = ()


def open_source(path: Path) -> Source:
    """Open a checkpoint, the newest intact one of a run, or a folder of transformers, mlx-lm or `lost convert`.

    Args:
        path: of one of these, or what stands for a model of the hub, which is downloaded.

    Raises:
        CheckpointError: it is none of these, or damaged.
        UserError, NetworkError, MissingPackageError: a model of the hub that can't be downloaded.
        DataError: a folder without a tokenizer, or with another model's.
    """
    path = fetched(path)
    if is_folder_of_another(path):
        found = open_folder(path)
        return Source(
            path,
            found.config,
            None,
            found.seq_len,
            lambda: found.tokenizer,
            found.parameters,
            found.weights.sizes,
            found.remarks,
            found.ends,
        )
    if not ((path / MANIFEST).exists() or (path / CHECKPOINTS).exists()):
        what = "holds no model; " if path.exists() else f"doesn't exist; {did_you_mean_path(path)}"
        if (path / LOG).is_file():
            what = "is a run without a checkpoint yet; "
        raise CheckpointError(
            f"{path} {what}expected a run, a checkpoint, an export, or a Hugging Face folder ({CONFIG} and "
            f"safetensors); name one{_runs_in(path)}"
        )
    held, rejected = find_checkpoint(path)
    sizes = {name: seal["size"] for name, seal in held.files.items()}
    remarks = [f"skipped: {reason}" for reason in rejected]
    return Source(
        held.path,
        held.config,
        held.progress,
        held.config.data.seq_len,
        held.tokenizer,
        held.parameters,
        sizes,
        remarks,
        ends_of_text(held.path, vocabulary(held.config)),
    )


def _runs_in(folder: Path) -> str:
    """Return an example of the runs in a folder."""
    found = sorted(path.parent for path in folder.glob("*/checkpoints"))
    return f", such as {found[0]}" if found else ""


def is_folder_of_another(path: Path) -> bool:
    """Whether a path is a folder as transformers has it, and neither a run nor a checkpoint."""
    return (path / CONFIG).exists() and not (path / MANIFEST).exists() and not (path / CHECKPOINTS).exists()
