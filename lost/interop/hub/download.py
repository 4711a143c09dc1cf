"""Download of a model: the files that an import reads, of one commit, and nothing else of its repository."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lost.errors import CheckpointError, UserError
from lost.interop.from_hf.description import FILE as CONFIG
from lost.interop.from_hf.weights import INDEX, SINGLE, indexed
from lost.interop.special_tokens import GENERATION
from lost.storage.nofollow import resolved
from lost.tokenizer import KINDS
from lost.tokenizer.base import CONFIG as TOKENIZER_CONFIG
from lost.tokenizer.config_file import TEMPLATE
from lost.tokenizer.sentencepiece import ADDED
from lost.utils.hub import library, reaching

_Get = Callable[[str], Path]  # downloads a file of a repository

SCHEME = "hf://"
_ROOT = "hf:"  # of the path that such an address becomes
_ADDRESS = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
_SNAPSHOT = re.compile(r"/models--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})$")
_PART = re.compile(r"[\w-][\w.-]*\.safetensors")


def address(text: str) -> Path:
    """Return an address, `hf://owner/name` or `hf://owner/name@REVISION`, as the path that stands for it.

    Raises:
        UserError: it is none.
    """
    if not _ADDRESS.fullmatch(text.removeprefix(SCHEME)):
        raise UserError(
            f"{text} names no model of the hub; expected hf://owner/name, or hf://owner/name@REVISION with a branch, a "
            "tag or a commit; correct it"
        )
    return Path(_ROOT, text.removeprefix(SCHEME))


def is_address(path: Path) -> bool:
    """Whether a path stands for a model of the hub."""
    return path.parts[:1] == (_ROOT,) and _ADDRESS.fullmatch(_after_scheme(path)) is not None


def as_typed(path: Path) -> str:
    """Return a path in messages: the address that it stands for, or itself."""
    return SCHEME + _after_scheme(path) if is_address(path) else str(path)


def fetched(path: Path) -> Path:
    """Return the folder of a model in the hub's cache, downloaded as far as it isn't there yet; another path as it is.

    The folder is named by the commit.

    Raises:
        CheckpointError: the repository has no weights that can be read.
        UserError: it doesn't exist, or isn't given to this user.
        NetworkError: the hub can't be reached.
        MissingPackageError: its library isn't installed.
    """
    return _downloaded(path, _of_model) if is_address(path) else path


def fetched_tokenizer(path: Path) -> Path:
    """Return a folder as `fetched` does, of which no more than the tokenizer is downloaded.

    Raises:
        CheckpointError: the repository has none.
        UserError, NetworkError, MissingPackageError: as `fetched`.
    """
    return _downloaded(path, _of_tokenizer) if is_address(path) else path


def cached(path: Path) -> Path:
    """Return where in the hub's cache a model's snapshots are, or the one of its commit; another path as it is."""
    if not is_address(path):
        return resolved(path)
    name, revision = _named(path)
    hub = library(f"comparing with {SCHEME}{name}")
    home = Path(hub.constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    return resolved(home / revision if revision and re.fullmatch("[0-9a-f]{40}", revision) else home)


def published(folder: Path) -> tuple[str, str] | None:
    """Return the name of a model on the hub and its commit, if a folder is its snapshot in a cache; else None."""
    found = _SNAPSHOT.search(folder.as_posix())
    return (found["name"].replace("--", "/", 1), found["commit"]) if found else None


def _after_scheme(path: Path) -> str:
    return "/".join(path.parts[1:])


def _named(path: Path) -> tuple[str, str | None]:
    found: Any = _ADDRESS.fullmatch(_after_scheme(path))
    return found["name"], found["revision"]


def _downloaded(path: Path, chosen: Callable[[str, set[str], _Get], list[str]]) -> Path:
    name, revision = _named(path)
    hub = library(f"downloading {SCHEME}{name}")
    with reaching(f"{SCHEME}{name}"):
        api = hub.HfApi()
        info = api.model_info(name, revision=revision)

        def get(file: str) -> Path:
            return Path(api.hf_hub_download(name, file, revision=info.sha))

        files = [get(file) for file in chosen(name, {each.rfilename for each in info.siblings}, get)]
    return files[0].parent


def _of_model(name: str, held: set[str], get: _Get) -> list[str]:
    """Return the names of the files that an import reads, of those that a repository holds."""
    if CONFIG not in held or not {SINGLE, INDEX} & held:
        raise CheckpointError(
            f"{SCHEME}{name} holds no {CONFIG}, or neither {SINGLE} nor {INDEX} (pickled weights are never read); "
            "expected a model's folder as transformers writes it; choose another, or a revision that has them"
        )
    weights = [SINGLE] if SINGLE in held else [INDEX, *_parts(get(INDEX), name)]
    return [CONFIG, *({GENERATION} & held), *_of_tokenizer(name, held, get), *weights]


def _of_tokenizer(name: str, held: set[str], get: _Get) -> list[str]:
    """Return the names of a tokenizer's files, likewise."""
    if not held & KINDS.keys():
        raise CheckpointError(f"{SCHEME}{name} holds no {' or '.join(KINDS)}; expected a model's; choose another")
    return [each for each in (*KINDS, TOKENIZER_CONFIG, ADDED, TEMPLATE) if each in held]


def _parts(index: Path, name: str) -> list[str]:
    """Return the names of the files that an index lists."""
    parts = sorted({path.name for path in indexed(index.parent).values()})
    if odd := [part for part in parts if not _PART.fullmatch(part)]:
        raise CheckpointError(f"{SCHEME}{name}: {INDEX} names {odd[0]!r:.80}, no file of weights; don't trust it")
    return parts
