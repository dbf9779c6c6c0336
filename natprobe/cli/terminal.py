"""Where a command writes to: the result to stdout, everything else to stderr, colour and motion to terminals only.

A service may have started natprobe without one of the standard streams, or with one that takes nothing. A result that
cannot be written is a failure; what cannot be written to stderr is lost, and changes nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from contextlib import suppress
from types import TracebackType
from typing import Self, TextIO

from natprobe.errors import CannotRun
from natprobe.views.printable import printable

_WIDEST = 100
"""Longer lines are hard to read."""


def occupy_closed_descriptors() -> None:
    """Have each standard descriptor that is closed lead to /dev/null, for other programs that are started too.

    Otherwise the first socket gets its number, and whatever writes to the standard stream sends that to a server.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one, for those below it are taken by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def emit(text: str) -> None:
    """Write a result to stdout, and flush it. A reader that closed the pipe has read enough: that is no failure.

    Raises CannotRun where stdout takes nothing.
    """
    try:
        _write(text, sys.stdout)
    except BrokenPipeError:
        pass
    except OSError as wrong:
        raise unwritable(wrong) from None


def unwritable(wrong: OSError) -> CannotRun:
    """Return the failure to report where the result could not be written to stdout."""
    why = (wrong.strerror or str(wrong)).lower()
    return CannotRun(f"cannot write the result to stdout: {why}; redirect stdout to a file that has room")


def note(text: str) -> None:
    """Write a line to stderr, with every character that could act on the terminal shown as an escape."""
    _try_to_write(printable(text) + "\n")


def _try_to_write(text: str) -> None:
    with suppress(OSError):
        _write(text, sys.stderr)


def _write(text: str, stream: TextIO | None) -> None:
    """Write to a stream what its encoding can carry. Raises OSError where it takes nothing, or is not there."""
    if stream is None or stream.closed:  # Python has None for a descriptor that was closed at its start
        raise OSError(errno.EBADF, "it is closed")
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except OSError:
        discard(stream)
        raise


def discard(stream: TextIO | None) -> None:
    """Have what is left in a stream's buffer go nowhere: Python flushes once more at its end, and would fail again."""
    with suppress(AttributeError, OSError, ValueError):  # not there, without a descriptor, or closed
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[union-attr]
        os.close(null)


def colourful(stream: TextIO | None) -> bool:
    """Return whether escape sequences may be written to ``stream`` (https://no-color.org)."""
    return _is_terminal(stream) and not os.environ.get("NO_COLOR")


def _is_terminal(stream: TextIO | None) -> bool:
    """Return whether ``stream`` leads to a terminal that knows escape sequences."""
    return stream is not None and not stream.closed and stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(text: str, *, good: bool) -> str:
    """Return text for stdout in green or red, where it may be coloured."""
    return f"\x1b[{32 if good else 31}m{text}\x1b[0m" if colourful(sys.stdout) else text


def width() -> int:
    """Return how many columns a line may have: those of the terminal, or 80."""
    return max(40, min(_WIDEST, shutil.get_terminal_size((80, 24)).columns))


class Progress:
    """One line on stderr that says what is going on: on a terminal only, and gone at the end of the block."""

    def __init__(self) -> None:
        self._possible = _is_terminal(sys.stderr)
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.say("")

    def say(self, phrase: str) -> None:
        """Replace the line."""
        if self._possible and (phrase or self._shown):
            self._shown = bool(phrase)
            _try_to_write("\r\x1b[2K" + printable(phrase)[: width() - 1])
