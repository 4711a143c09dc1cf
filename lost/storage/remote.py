"""Files at an address that fsspec knows: object stores, other machines, folders. Nothing that is there is trusted."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lost.errors import CheckpointError, LostError, MissingPackageError, NetworkError, UserError
from lost.storage.files import Seal
from lost.storage.nofollow import open_new
from lost.utils.addresses import has_userinfo, without_secrets, without_userinfo
from lost.utils.extras import need

_CHUNK = 1 << 22


class Remote:
    """A folder at an address, such as s3://bucket/run, gs://..., sftp://..., file:///mnt/run or memory://run.

    Every method raises a NetworkError where the address doesn't answer, or refuses.

    Raises:
        MissingPackageError: fsspec isn't installed, or what it needs for this kind of address.
        UserError: it is no address.

    Attributes:
        address: as it may be shown, without a user's name and password.
    """

    def __init__(self, address: str) -> None:
        self.address, self._secret = without_userinfo(address), address
        if "://" not in address:
            raise UserError(
                f"{address!r:.200} is no address; expected one such as s3://bucket/run, or file:///mnt/run for a folder"
            )
        fsspec = need("fsspec", "remote", self.address)
        with self._reached():
            for part in address.split("::"):  # of a chain, such as simplecache::s3://bucket/run
                if "://" in part or part.isalpha():  # otherwise it is a path, as in zip://::mirror.zip
                    _check_known(fsspec, part.partition("://")[0])
            self._fs, self._root = fsspec.url_to_fs(address)  # some clients connect here

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none where there is no such folder."""
        with self._reached(folder):
            try:
                self._fs.invalidate_cache()  # another machine may have written there
                paths = self._fs.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file's content; none where there is no such file.

        Raises:
            CheckpointError: it has more than `limit` bytes.
        """
        content = b"".join(self._chunks(name, limit + 1))
        if len(content) > limit:
            raise CheckpointError(
                f"{self.address}/{name} has more than {limit >> 20} MiB; expected what `lost train` wrote; don't trust "
                "that address"
            )
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self._reached(name):
            self._fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(self._path(name), content)

    def put(self, path: Path, name: str) -> None:
        """Copy a file of this machine there.

        Raises:
            FileNotFoundError: it is gone here.
        """
        try:
            with self._reached(name):
                self._fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
                self._fs.put_file(str(path), self._path(name))
        except NetworkError:
            if not path.exists():
                raise FileNotFoundError(path) from None
            raise

    def fault(self, name: str, seal: Seal, copy: Path | None = None) -> str | None:
        """Return what is wrong with a sealed file, after reading it, or None.

        Args:
            name: of the file.
            seal: what it should be.
            copy: a new file here that it is written to meanwhile, never longer than it should be.
        """
        digest, size = hashlib.sha256(), 0
        with ExitStack() as opened:
            target = opened.enter_context(open_new(copy)) if copy else None
            for chunk in self._chunks(name, seal["size"] + 1):
                digest.update(chunk)
                size += len(chunk)
                if size > seal["size"]:
                    return f"is longer than {seal['size']} bytes"
                if target:
                    target.write(chunk)
        if size < seal["size"]:
            return f"has {size} bytes instead of {seal['size']}"
        return None if digest.hexdigest() == seal["sha256"] else "doesn't have the checksum it was written with"

    def _chunks(self, name: str, limit: int) -> Iterator[bytes]:
        """Yield the first `limit` bytes of a file; none where there is no such file."""
        with self._reached(name):
            try:
                file = self._fs.open(self._path(name), "rb")
            except FileNotFoundError:
                return
        with file:
            while limit > 0:
                with self._reached(name):
                    chunk = file.read(min(_CHUNK, limit))
                if not chunk:
                    return
                limit -= len(chunk)
                yield chunk

    def remove(self, folder: str) -> None:
        """Remove a folder, if it is there."""
        with self._reached(folder):
            if self._fs.exists(self._path(folder)):
                self._fs.rm(self._path(folder), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _reached(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except LostError:
            raise
        except ImportError as error:
            raise MissingPackageError(
                f"{self.address} needs a package that isn't installed: {error}; install it"
            ) from None
        except Exception as error:  # of clients of all kinds of stores: no common class
            where = f"{self.address}/{name}" if name else self.address
            said = " ".join(without_secrets(str(error), self._secret).split())
            raise NetworkError(
                f"{where}: {type(error).__name__}: {said:.300}; expected a store that answers and lets you in; check "
                "the address, the network and your rights there, and try again"
            ) from (None if has_userinfo(self._secret) else error)  # a traceback shows what the client said


def _check_known(fsspec: Any, protocol: str) -> None:
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        raise UserError(f"{error}; expected one that fsspec knows, as in s3://bucket/run; correct it") from None
