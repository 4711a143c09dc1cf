"""Locks of the system, which it releases however their holder ends."""

import errno
import fcntl

# The last one comes of network shares, which lock only what is open for writing: no folder is.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF}


def taken(handle: int) -> bool | None:
    """Take the lock of an open file or folder until that is closed; return whether nobody else holds it.

    None: the file system has no locks, or none of this.

    Raises:
        OSError: it can't be taken for another reason.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True
