"""Upload of an export: into a repository that is private unless it is wanted public."""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from lost.errors import UserError
from lost.interop.from_hf.weights import INDEX
from lost.utils.hub import LOG_IN, library, reaching

# An earlier export's of the same form, which readers could take for this one's.
_WEIGHTS, _GGUF = ("model*.safetensors", INDEX), ("*.gguf",)


@dataclass(frozen=True)
class Upload:
    """What was done.

    Attributes:
        commit: its address.
        removed: weights that were there and went.
    """

    commit: str
    removed: list[str]


def replaced(folder: Path) -> tuple[str, ...]:
    """Return patterns of the files that an upload of this export removes if it doesn't have them."""
    forms = (_GGUF, _WEIGHTS)  # adapters are one file, whose name is always the same
    return next((each for each in forms if any(folder.glob(each[0]))), ())


def check_upload(name: str, now: bool = True) -> None:
    """Check what can be checked before anything is exported: the library, the name, and that there is a token.

    Args:
        name: of the repository.
        now: whether it is to be uploaded; else no token is needed.

    Raises:
        UserError: it can't be uploaded so.
        MissingPackageError: the hub's library isn't installed.
    """
    hub = library("--push")
    with reaching(f"--push {name}"):
        hub.utils.validate_repo_id(name)
    if now and hub.get_token() is None:
        raise UserError(f"--push {name}: the hub takes models from those it knows; expected a token; {LOG_IN}")


def upload(folder: Path, name: str, public: bool) -> Upload:
    """Upload all files of an export in the place of an earlier one's weights.

    Args:
        folder: the export.
        name: of the repository, which is made if there is none; without an owner it is the token's.
        public: whether everybody may see it.

    Raises:
        UserError: the repository is public and isn't wanted so, or the reverse, or this user may not write to it.
        NetworkError: the hub can't be reached.
    """
    hub = library("--push")
    with reaching(f"--push {name}", f"{folder} is complete, the same command with --overwrite goes on"):
        api = hub.HfApi()
        full = api.create_repo(name, private=not public, exist_ok=True).repo_id
        there = api.model_info(full)
        if bool(there.private) is public:
            found, wanted, change = (
                ("private", "public", "leave --public out") if public else ("public", "private", "add --public")
            )
            raise UserError(
                f"--push {name}: {full} is there and {found}; expected a {wanted} one; name another, or {change}"
            )
        goes = replaced(folder)
        told = api.upload_folder(
            repo_id=full, folder_path=folder, commit_message="Export by lost-pretrain", delete_patterns=list(goes)
        )
        names = [each.rfilename for each in there.siblings or ()]
        gone = [name for name in names if any(fnmatch(name, each) for each in goes) and not (folder / name).exists()]
        return Upload(str(told.commit_url), sorted(gone))
