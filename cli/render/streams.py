"""Standard streams that never fail: a closed terminal, a closed pipe or a full disk behind them ends no run.

Output that can't be written is dropped and the error kept, so that a command whose answer was lost reports it.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from lost.errors import OutputError, UserError


class TolerantStream:
    """A text stream that never raises. After the first error, everything written to its descriptor is dropped.

    Args:
        stream: to write to.

    Attributes:
        error: the first one; None: everything was written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._terminal = stream, stream.isatty()
        self.error: OSError | None = None

    @property
    def unread(self) -> bool:
        """Whether nobody reads the output any more: the pipe's reader exited, or the terminal was closed."""
        return self.error is not None and (self._terminal or self.error.errno == errno.EPIPE)

    def write(self, text: str) -> int:
        """Write text; characters that the stream's encoding doesn't have are escaped."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except RuntimeError:  # a signal handler prints while the stream is being written to
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
        """Redirect the descriptor to nowhere, also for other writers and for what is still buffered."""
        if self.error is None:
            self.error = error if isinstance(error, OSError) else OSError(errno.EBADF, str(error))
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Make printing never fail.

    Descriptors that the shell closed (`>&-`) are redirected to nowhere: otherwise the next file opened would get the
    output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (TolerantStream(each or open(os.devnull, "w")) for each in before)  # noqa: SIM115
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def has_reader() -> bool:
    """Return whether anybody may read what is printed next; if not, there is no need to compute it.

    Raises:
        OutputError: what was printed could not be written.
    """
    check_written()
    return not (isinstance(sys.stdout, TolerantStream) and sys.stdout.unread)


def opened_input(expected: str) -> TextIO:
    """Return standard input.

    Args:
        expected: what it is to be.

    Raises:
        UserError: the shell closed it.
    """
    if sys.stdin is None:
        raise UserError(f"standard input is closed; expected {expected}; leave out `<&-`")
    return sys.stdin


def check_written() -> None:
    """Check that standard output has been written completely, unless nobody reads it any more.

    Raises:
        OutputError: it hasn't.
    """
    sys.stdout.flush()
    stream = sys.stdout
    if isinstance(stream, TolerantStream) and stream.error and not stream.unread:
        raise OutputError(
            f"standard output could not be written: {stream.error.strerror}; only the answer is lost; redirect it "
            "elsewhere, and run the command again"
        )
