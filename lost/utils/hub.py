"""The hub's library, and its errors as ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lost.errors import NetworkError, UserError
from lost.utils.extras import need

_BUSY = (408, 429)  # of HTTP: the same request may be answered later
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def library(what: str) -> Any:
    """Return the library.

    Args:
        what: it is needed for; the subject of the message.

    Raises:
        MissingPackageError: it isn't installed.
    """
    return need("huggingface_hub", "hub", what)


@contextmanager
def reaching(name: str, again: str = "give the same command again when there are") -> Iterator[None]:
    """Turn the library's errors about a repository into ours.

    Args:
        name: of it, in messages.
        again: what to do once the hub can be reached.

    Raises:
        UserError: it doesn't exist, or this user may not do that.
        NetworkError: the hub can't be reached, or asks to wait.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(
            f"{name} can't name a repository of the hub: {str(error).rstrip('.')}; expected owner/name; correct it"
        ) from None
    except errors.GatedRepoError:
        raise UserError(
            f"{name} is gated: its owners give it to those who agree to their terms; expected that you have; do so on "
            f"its page, and {LOG_IN}"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name} has no such revision; expected a branch, a tag or a commit; correct it") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{name} isn't on the hub, or is private; expected a repository that you can see; check the name, or "
            f"{LOG_IN}"
        ) from None
    except errors.HfHubHTTPError as error:
        status, said = error.response.status_code, " ".join((error.server_message or "").split())
        if status in (401, 403):
            raise UserError(f"{name}: the hub refused ({status} {said}); expected a token that may; {LOG_IN}") from None
        if not out_of_reach(error):
            raise UserError(f"{name}: the hub refused ({status} {said}); check name and options") from None
        raise _unreachable(name, f"it answers {status} {said}", again) from None
    except Exception as error:
        if not out_of_reach(error):
            raise  # of this machine's disk, or a defect
        raise _unreachable(name, " ".join(str(error).split()) or type(error).__name__, again) from None


def out_of_reach(error: BaseException) -> bool:
    """Return whether an error, of the hub's library, its HTTP client or the data's, says that it may answer later."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return bool(status >= 500 or status in _BUSY)
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ == "LocalEntryNotFoundError":
        return True
    return type(error).__module__.startswith("httpx")


def _unreachable(name: str, why: str, again: str) -> NetworkError:
    return NetworkError(
        f"{name}: the hub can't be reached: {why:.300}; expected a network and a hub that answers; {again}: "
        "files already transferred are not transferred again"
    )
