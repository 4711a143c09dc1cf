"""Upload of an export: into a repository that is private unless it is wanted public."""

from pathlib import Path

from lost.errors import UserError
from lost.interop.from_hf.weights import INDEX
from lost.utils.hub import LOG_IN, library, reaching

_WEIGHTS = ["model*.safetensors", INDEX, "*.gguf"]  # an earlier export's, which readers could take for this one's


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


def upload(folder: Path, name: str, public: bool) -> str:
    """Upload all files of an export in the place of an earlier one's weights, and return the address of the commit.

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
        if bool(api.model_info(full).private) is public:
            found, wanted, change = (
                ("private", "public", "leave --public out") if public else ("public", "private", "add --public")
            )
            raise UserError(
                f"--push {name}: {full} is there and {found}; expected a {wanted} one; name another, or {change}"
            )
        told = api.upload_folder(
            repo_id=full, folder_path=folder, commit_message="Export by lost-pretrain", delete_patterns=_WEIGHTS
        )
        return str(told.commit_url)
