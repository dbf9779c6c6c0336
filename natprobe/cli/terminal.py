"""Where a command writes to: the result to stdout, everything else to stderr, colour and motion to terminals only."""

from __future__ import annotations

import os
import shutil
import sys
from types import TracebackType
from typing import Self, TextIO

from natprobe.errors import CannotRun
from natprobe.views.printable import printable

_WIDEST = 100
"""Longer lines are hard to read."""


def emit(text: str) -> None:
    """Write a result to stdout, and see it off. Whoever closed the pipe has read enough: that is no failure."""
    try:
        sys.stdout.write(_encodable(text, sys.stdout))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as full:
        raise CannotRun(f"the result cannot be written: {full.strerror}") from None


def note(text: str) -> None:
    """Write a line to stderr, whatever strangers have put into it."""
    sys.stderr.write(_encodable(printable(text), sys.stderr) + "\n")
    sys.stderr.flush()


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def colourful(stream: TextIO) -> bool:
    """Return whether escape sequences may be written to ``stream`` (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, *, good: bool) -> str:
    """Return text for stdout in green or red, where it may be coloured."""
    return f"\x1b[{32 if good else 31}m{text}\x1b[0m" if colourful(sys.stdout) else text


def width() -> int:
    """Return how many columns a line may have: those of the terminal, or 80."""
    return max(40, min(_WIDEST, shutil.get_terminal_size((80, 24)).columns))


class Progress:
    """One line on stderr that says what is going on: on a terminal only, and gone at the end of the block."""

    def __init__(self) -> None:
        self._possible = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
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
            sys.stderr.write("\r\x1b[2K" + _encodable(printable(phrase)[: width() - 1], sys.stderr))
            sys.stderr.flush()
