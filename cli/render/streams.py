"""Standard output and error that never fail: a closed terminal, a closed pipe or a full disk behind them ends no run.

What can't be written is dropped, and remembered, so that a command whose answer was lost says so at its end.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from lost.errors import OutputError


class TolerantStream:
    """A text stream whose errors are swallowed. After the first one, all that goes to its descriptor is dropped.

    Args:
        stream: the one to write to.

    Attributes:
        error: the first one; None: all was written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._terminal = stream, stream.isatty()
        self.error: OSError | None = None

    @property
    def unread(self) -> bool:
        """Whether nobody misses what was dropped: the pipe's reader left, or the terminal was closed."""
        return self.error is not None and (self._terminal or self.error.errno == errno.EPIPE)

    def write(self, text: str) -> int:
        """Write text; characters that the stream's encoding doesn't have are escaped."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except RuntimeError:  # a signal came while the stream was being written to, and has something to say
            with suppress(OSError, ValueError):
                os.write(self._stream.fileno(), text.encode(errors="backslashreplace"))
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        try:
            self._stream.flush()
        except RuntimeError:
            pass
        except (OSError, ValueError) as error:
            self._drop(error)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self, error: OSError | ValueError) -> None:
        """Let the descriptor lead nowhere, also for what others write to it, and what is buffered still."""
        if self.error is None:
            self.error = error if isinstance(error, OSError) else OSError(errno.EBADF, str(error))
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Have nothing that is printed fail.

    Descriptors that the shell closed (`>&-`) lead nowhere: else the next file to be opened would get what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (TolerantStream(each or open(os.devnull, "w")) for each in before)  # noqa: SIM115
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def check_written() -> None:
    """See that all that was printed on standard output so far has been written, unless nobody reads it any more.

    Raises:
        OutputError: it wasn't.
    """
    sys.stdout.flush()
    stream = sys.stdout
    if isinstance(stream, TolerantStream) and stream.error and not stream.unread:
        raise OutputError(
            f"standard output could not be written: {stream.error.strerror}; expected room for the answer; redirect it "
            "elsewhere, and ask again: nothing else was lost"
        )
