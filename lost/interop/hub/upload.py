"""Upload of an export: into a repository that is private unless it is wanted public."""

import re
from pathlib import Path

from lost.errors import UserError
from lost.interop.hub.access import LOG_IN, library, reaching

_NAME = re.compile(r"([\w-][\w.-]*/)?[\w-][\w.-]*")


def check_upload(name: str, now: bool = True) -> None:
    """Check what can be checked before anything is exported: the name, the library, and that there is a token.

    Args:
        name: of the repository.
        now: whether it is to be uploaded; else only the name is checked.

    Raises:
        UserError: it can't be uploaded so.
        MissingPackageError: the hub's library isn't installed.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"--push {name} can't name a repository of the hub; expected owner/name, or a name; correct it")
    if now and library("--push").get_token() is None:
        raise UserError(f"--push {name}: the hub takes models from those it knows; expected a token; {LOG_IN}")


def upload(folder: Path, name: str, public: bool) -> str:
    """Upload all files of an export, and return the address of the commit.

    Args:
        folder: the export.
        name: of the repository, which is made if there is none; without an owner it is the token's.
        public: whether everybody may see it.

    Raises:
        UserError: the repository is public and isn't wanted so, or this user may not write to it.
        NetworkError: the hub can't be reached.
    """
    hub = library("--push")
    with reaching(f"--push {name}", f"{folder} is complete, the same command with --overwrite goes on"):
        api = hub.HfApi()
        full = api.create_repo(name, private=not public, exist_ok=True).repo_id
        if not public and not api.model_info(full).private:
            raise UserError(
                f"--push {name}: {full} is there and public; expected a private one; name another, or add --public"
            )
        return str(
            api.upload_folder(repo_id=full, folder_path=folder, commit_message="Export by lost-pretrain").commit_url
        )
